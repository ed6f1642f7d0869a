// The words by which Python names a choice, such as the dtype 'f32'.
#pragma once

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/admission/rule.h"
#include "core/base/dtype.h"
#include "core/codecs/codec.h"
#include "core/kernels/kernels.h"
#include "core/optimizer/chunk_values.h"
#include "core/options/schedule.h"
#include "core/options/staleness.h"

namespace leash::bindings {

template <typename Value>
struct Choice {
  std::string_view name;
  Value value;
};

inline constexpr std::array<Choice<Dtype>, 2> kDtypes{{{"f32", Dtype::kF32}, {"f64", Dtype::kF64}}};
inline constexpr std::array<Choice<ChunkKind>, 2> kChunkKinds{
    {{"parameter", ChunkKind::kParameter}, {"buffer", ChunkKind::kBuffer}}};

inline constexpr std::array<Choice<BoundUnit>, 2> kBoundUnits{
    {{"clocks", BoundUnit::kClocks}, {"versions", BoundUnit::kVersions}}};
inline constexpr std::array<Choice<Gather>, 3> kGathers{
    {{"each", Gather::kEach}, {"step", Gather::kStep}, {"round", Gather::kRound}}};

inline constexpr std::array<Choice<ScheduleDecay>, 4> kScheduleDecays{
    {{"constant", ScheduleDecay::kConstant},
     {"step", ScheduleDecay::kStep},
     {"cosine", ScheduleDecay::kCosine},
     {"power", ScheduleDecay::kPower}}};

inline constexpr std::array<Choice<StalenessDecay>, 3> kStalenessDecays{
    {{"none", StalenessDecay::kNone},
     {"inverse", StalenessDecay::kInverse},
     {"poly", StalenessDecay::kPolynomial}}};

inline constexpr std::array<Choice<CompensationKind>, 3> kCompensationKinds{
    {{"none", CompensationKind::kNone},
     {"constant", CompensationKind::kConstant},
     {"adaptive", CompensationKind::kAdaptive}}};

inline constexpr std::array<Choice<Codec>, 5> kCodecs{{{"raw", Codec::kRaw},
                                                       {"bf16", Codec::kBf16},
                                                       {"f16", Codec::kF16},
                                                       {"int8", Codec::kInt8},
                                                       {"topk", Codec::kTopk}}};

// The value that has this name. Throws std::invalid_argument, naming the choices; `what` is the
// name of the argument.
template <typename Choices>
auto value_in(const Choices& choices, const char* what, const std::string& name) {
  for (const auto& choice : choices) {
    if (choice.name == name) return choice.value;
  }
  std::string message = std::string(what) + ": expected";
  for (const auto& choice : choices) message.append(" '").append(choice.name).append("'");
  throw std::invalid_argument(message + ", got '" + name + "'");
}

// The name that this value has.
template <typename Choices, typename Value>
std::string_view name_in(const Choices& choices, Value value) {
  for (const auto& choice : choices) {
    if (choice.value == value) return choice.name;
  }
  return {};
}

// The kernels of the instruction set with this name, or without a name of the one in use. Throws as
// instruction_set_named() does.
inline const Kernels& kernels_named(const std::optional<std::string>& isa) {
  return kernels_for(isa ? instruction_set_named(*isa) : instruction_set());
}

}  // namespace leash::bindings
