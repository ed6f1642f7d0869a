"""The optimizers' kernels against torch.optim, on every instruction set of this CPU."""

from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leash.ps._core import AdagradOptions, AdamOptions, SgdOptions, instruction_sets, kernels
from support.values import random_values, unaligned

Array: TypeAlias = NDArray[Any]
Options: TypeAlias = SgdOptions | AdamOptions | AdagradOptions

SIZES = [0, 1, 15, 16, 17, 4097]
DTYPES = [np.float32, np.float64]
RELATIVE_ERROR = {np.float32: 1e-6, np.float64: 1e-14}
STEPS = 25


@dataclass(frozen=True)
class Case:
    """An optimizer of torch, and the same of the core."""

    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    def core(self) -> Options:
        match self.name:
            case "SGD":
                return SgdOptions(**self.options)
            case "Adagrad":
                return AdagradOptions(**self.options)
        return AdamOptions(**self.options, decoupled=self.name == "AdamW")

    def torch(self, parameter: torch.Tensor) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(torch.optim, self.name)(
            [parameter], foreach=False, **self.options
        )
        return made

    def states(self, w: Array) -> list[Array]:
        """The buffers before the first update. SGD's holds what must not be read."""
        if self.name == "SGD":
            return [np.full_like(w, np.nan)] if self.options["momentum"] else []
        if self.name == "Adagrad":
            return [np.full_like(w, self.options["initial_accumulator_value"])]
        return [np.zeros_like(w) for _ in range(3 if self.options["amsgrad"] else 2)]


def combinations(name: str, **choices: list[Any]) -> list[Case]:
    return [
        Case(name, dict(zip(choices, values, strict=True))) for values in product(*choices.values())
    ]


CASES = [
    *(
        case
        for case in combinations(
            "SGD", lr=[0.1], momentum=[0.0, 0.9], dampening=[0.0, 0.3], weight_decay=[0.0, 0.01],
            nesterov=[False, True], maximize=[False, True],
        )
        if not case.options["nesterov"]
        or (case.options["momentum"] > 0 and case.options["dampening"] == 0)
    ),
    *combinations(
        "Adam", lr=[0.01], betas=[(0.9, 0.999), (0.4, 0.9)], eps=[1e-8, 1e-3],
        weight_decay=[0.0, 0.01], amsgrad=[False, True], maximize=[False, True],
    ),
    *combinations(
        "AdamW", lr=[0.01], weight_decay=[0.0, 0.01], amsgrad=[False, True],
        maximize=[False, True],
    ),
    *combinations(
        "Adagrad", lr=[0.01], lr_decay=[0.0, 0.1], weight_decay=[0.0, 0.01],
        initial_accumulator_value=[0.0, 0.5], eps=[1e-10, 1e-3], maximize=[False, True],
    ),
]  # fmt: skip

every_isa = pytest.mark.parametrize("isa", instruction_sets())
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def core_steps(case: Case, isa: str, n: int, dtype: Any, steps: int = STEPS) -> list[Array]:
    """The parameters after each step, which must equal the replies."""
    w = random_values(n, dtype, seed=0)
    states, options = case.states(w), case.core()
    after = []
    for number in range(1, steps + 1):
        payload = unaligned(random_values(n, dtype, seed=number))
        kernels.update(isa, w, states, payload, payload, options, number)
        assert bytes(payload) == w.tobytes()
        after.append(w.copy())
    return after


def torch_steps(case: Case, n: int, dtype: Any, steps: int = STEPS) -> list[Array]:
    parameter = torch.tensor(random_values(n, dtype, seed=0), requires_grad=True)
    optimizer = case.torch(parameter)
    after = []
    for number in range(1, steps + 1):
        parameter.grad = torch.tensor(random_values(n, dtype, seed=number))
        optimizer.step()
        after.append(parameter.detach().numpy().copy())
    return after


@every_dtype
@every_case
def test_each_step_matches_torch_on_an_unaligned_gradient(case: Case, dtype: Any) -> None:
    isa = instruction_sets()[-1]
    for n in SIZES:
        actual, expected = core_steps(case, isa, n, dtype), torch_steps(case, n, dtype)
        # Relative to the largest parameter of the run: a sum that cancels keeps its terms' errors.
        scale = float(np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=RELATIVE_ERROR[dtype] * scale)


@every_dtype
@every_case
def test_every_instruction_set_gives_the_same_bits(case: Case, dtype: Any) -> None:
    for n in SIZES:
        last = [core_steps(case, isa, n, dtype, steps=3)[-1] for isa in instruction_sets()]
        assert [w.tobytes() for w in last] == [last[0].tobytes()] * len(last)


@every_isa
@every_dtype
@pytest.mark.parametrize(
    "options", [SgdOptions(lr=0.5), AdamOptions(), AdamOptions(amsgrad=True), AdagradOptions()]
)
def test_the_reply_can_be_written_elsewhere_or_nowhere(
    isa: str, dtype: Any, options: Options
) -> None:
    gradient = random_values(17, dtype, seed=1)
    before = gradient.copy()
    results = []
    for reply in (np.zeros(17, dtype), None):
        w = random_values(17, dtype, seed=0)
        count = {SgdOptions: 0, AdagradOptions: 1}.get(type(options), 2)
        count += isinstance(options, AdamOptions) and options.amsgrad
        states: list[Array] = [np.zeros(17, dtype) for _ in range(count)]
        kernels.update(isa, w, states, gradient, reply, options, 1)
        assert reply is None or reply.tobytes() == w.tobytes()
        results.append(w.tobytes())
    assert results[0] == results[1]
    assert gradient.tobytes() == before.tobytes()


def test_amsgrad_keeps_a_nan_as_torch_does() -> None:
    w = np.zeros(1, np.float32)
    states: list[Array] = [np.zeros(1, np.float32) for _ in range(3)]
    for number, value in enumerate((1.0, np.nan, 1.0), start=1):
        gradient: Array = np.array([value], np.float32)
        kernels.update("generic", w, states, gradient, None, AdamOptions(amsgrad=True), number)
    assert np.isnan(states[2][0])


def test_float64_is_not_converted_for_a_float32_kernel() -> None:
    w32 = np.zeros(4, np.float32)
    w64: Array = np.zeros(4, np.float64)
    options = SgdOptions(lr=0.1, momentum=0.9)
    with pytest.raises(TypeError):
        kernels.update("generic", w32, [w64], w32, None, options, 1)
    with pytest.raises(ValueError, match="gradient: expected 16 bytes, got 32"):
        kernels.update("generic", w32, [w32.copy()], w64, None, options, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SgdOptions(lr=0.1), 0), (SgdOptions(lr=0.1, momentum=0.9), 1), (AdamOptions(), 2),
        (AdamOptions(amsgrad=True), 3), (AdagradOptions(), 1),
    ],
)  # fmt: skip
def test_there_must_be_as_many_buffers_as_the_optimizer_has(
    options: Options, expected: int
) -> None:
    w = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=f"states: expected {expected}, got 4"):
        kernels.update("generic", w, [w.copy() for _ in range(4)], bytes(16), None, options, 1)
