// The settings of torch.optim.SGD, with its names, its defaults and its checks.
#pragma once

namespace leash {

struct SgdOptions {
  double lr;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
};

// Throws std::invalid_argument, naming the value, if torch.optim.SGD would refuse it or if it is
// not finite.
void validate(const SgdOptions& options);

}  // namespace leash
