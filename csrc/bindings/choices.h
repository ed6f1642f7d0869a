// The words that stand for choices in Python.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/admission/rule.h"
#include "core/base/dtype.h"
#include "core/codecs/codec.h"
#include "core/optimizer/schedule.h"
#include "core/optimizer/staleness.h"
#include "core/shard/chunk.h"

namespace leash::bindings {

template <typename Value>
struct Choice {
  std::string_view name;
  Value value;
};

inline constexpr std::array<Choice<Dtype>, 2> kDtypes{{{"f32", Dtype::kF32}, {"f64", Dtype::kF64}}};
inline constexpr std::array<Choice<Kind>, 2> kKinds{
    {{"parameter", Kind::kParameter}, {"buffer", Kind::kBuffer}}};

inline constexpr std::array<Choice<Unit>, 2> kUnits{
    {{"clocks", Unit::kClocks}, {"versions", Unit::kVersions}}};
inline constexpr std::array<Choice<Gather>, 3> kGathers{
    {{"each", Gather::kEach}, {"step", Gather::kStep}, {"round", Gather::kRound}}};

inline constexpr std::array<Choice<Decay>, 4> kDecays{{{"constant", Decay::kConstant},
                                                       {"step", Decay::kStep},
                                                       {"cosine", Decay::kCosine},
                                                       {"power", Decay::kPower}}};

inline constexpr std::array<Choice<StalenessDecay>, 3> kStalenessDecays{
    {{"none", StalenessDecay::kNone},
     {"inverse", StalenessDecay::kInverse},
     {"poly", StalenessDecay::kPolynomial}}};

inline constexpr std::array<Choice<Compensation>, 3> kCompensations{
    {{"none", Compensation::kNone},
     {"constant", Compensation::kConstant},
     {"adaptive", Compensation::kAdaptive}}};

inline constexpr std::array<Choice<Codec>, 5> kCodecs{{{"raw", Codec::kRaw},
                                                       {"bf16", Codec::kBf16},
                                                       {"f16", Codec::kF16},
                                                       {"int8", Codec::kInt8},
                                                       {"topk", Codec::kTopk}}};

// Throws std::invalid_argument, naming the choices.
template <typename Choices>
auto value_of(const Choices& choices, const char* what, const std::string& name) {
  for (const auto& choice : choices) {
    if (choice.name == name) return choice.value;
  }
  std::string message = std::string(what) + ": expected";
  for (const auto& choice : choices) message.append(" '").append(choice.name).append("'");
  throw std::invalid_argument(message + ", got '" + name + "'");
}

template <typename Choices, typename Value>
std::string_view name_in(const Choices& choices, Value value) {
  for (const auto& choice : choices) {
    if (choice.value == value) return choice.name;
  }
  return {};
}

}  // namespace leash::bindings
