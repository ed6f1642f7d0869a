// The options of torch.optim's SGD, Adam, AdamW and Adagrad, with torch's names, defaults and
// checks; and those of sums, which torch does not have.
#pragma once

#include <span>
#include <string_view>
#include <variant>

namespace leash {

struct SgdOptions {
  double lr = 1e-3;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;
};

// Adam (Kingma and Ba 2015, arXiv:1412.6980), AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)
// and AMSGrad (Reddi et al. 2018).
struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  bool amsgrad = false;
  bool maximize = false;
  bool decoupled = false;  // AdamW: decays the parameters themselves, not through the gradient
};

// Adagrad (Duchi et al. 2011) as torch has it, with a learning rate that decays.
struct AdagradOptions {
  double lr = 1e-2;
  double lr_decay = 0.0;
  double weight_decay = 0.0;
  double initial_accumulator_value = 0.0;
  double eps = 1e-10;
  bool maximize = false;
};

// For parameters that are sums of what is pushed, such as sufficient statistics. No gradient is
// followed: under bsp w = (1 - lr) * w + lr * (the plain sum of a step's pushes, in the order of
// worker ids), and on arrival the same with one push. With lr 1 the parameters are the sum itself;
// with a falling lr they are the running average of stochastic approximation (Cappe and Moulines
// 2009, arXiv:0712.4273, equation 10).
struct SumOptions {
  double lr = 1.0;
};

using OptimizerOptions = std::variant<SgdOptions, AdamOptions, AdagradOptions, SumOptions>;

// Each throws std::invalid_argument, naming the option, if torch.optim would refuse its value or if
// the value is not finite.
void validate(const SgdOptions& options);
void validate(const AdamOptions& options);
void validate(const AdagradOptions& options);
void validate(const SumOptions& options);
void validate(const OptimizerOptions& options);

double learning_rate(const OptimizerOptions& options);
bool maximizes(const OptimizerOptions& options);
void set_learning_rate(OptimizerOptions& options, double lr);

// The names of the buffers that this optimizer keeps beside the parameters, at most kMaxStates.
// They are torch's names, and checkpoints use them.
std::span<const std::string_view> state_names(const OptimizerOptions& options);

}  // namespace leash
