"""The habits that Leash does not honour yet. Whoever mends one deletes its line: a strict xfail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oracle.cases import Case


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing, and where it shows.

    Attributes:
        what: will mend the habit.
        overlap: where it shows: with overlap, without, or (None) in both.
    """

    what: str
    overlap: bool | None = None


# What will mend a habit.
ABSENT = "a parameter without a gradient is not stepped"
OUTSIDE = "what is done to a parameter outside step() is noticed"
KEPT = "a gradient that somebody keeps stays what it was"
USED_UP = "nobody takes gradients that step() has used up for those of torch"
MEMORY = "whatever shares a parameter's memory is noticed"
DTYPE = "a parameter that changes its dtype is noticed"
BUFFERS = "a shared buffer may hold anything, and change until step()"
STATE = "the optimizer's state: loaded, or refused by name"

NOT_YET: Final[dict[str, Missing]] = {
    "goes_backward_through_earlier_steps": Missing(ABSENT),
    "steps_by_hand_over_one_layer": Missing(OUTSIDE, overlap=True),
    "gives_one_parameter_to_two_optimizers": Missing(OUTSIDE, overlap=True),
    "scales_gradients_that_a_hook_has_collected": Missing(KEPT, overlap=True),
    "steps_twice_after_one_backward": Missing(USED_UP),
    "never_zeroes_gradients": Missing(USED_UP),
    "logs_the_norm_of_the_gradient_after_the_step": Missing(USED_UP),
    "ties_the_data_of_weights": Missing(MEMORY),
    "shares_a_buffer_that_is_a_parameters_memory": Missing(MEMORY),
    "keeps_views_of_a_weight_in_the_module": Missing(MEMORY),
    "keeps_detached_parameters_over_steps": Missing(MEMORY),
    "keeps_the_data_of_parameters_over_steps": Missing(MEMORY),
    "keeps_a_state_dict_over_steps": Missing(MEMORY),
    "looks_at_parameters_through_numpy": Missing(MEMORY),
    "keeps_a_view_of_a_weight_over_steps": Missing(MEMORY),
    "takes_gradients_of_detached_parameters": Missing(MEMORY),
    "builds_a_second_model_on_the_same_memory": Missing(MEMORY),
    "assigns_a_state_dict_to_a_second_model": Missing(MEMORY),
    "moves_the_model_to_shared_memory": Missing(MEMORY),
    "moves_the_model_to_shared_memory_beforehand": Missing(MEMORY),
    "sends_parameters_to_another_process": Missing(MEMORY),
    "moves_the_model_to_shared_memory_under_an_inner_optimizer": Missing(MEMORY, overlap=False),
    "goes_to_single_precision_while_training": Missing(DTYPE),
    "goes_to_double_precision_while_training": Missing(DTYPE),
    "looks_at_another_batch_between_backward_and_step": Missing(BUFFERS, overlap=True),
    "counts_in_a_buffer_after_backward": Missing(BUFFERS, overlap=True),
    "checkpoints_a_layer_with_shared_statistics": Missing(BUFFERS, overlap=True),
    "shares_a_buffer_that_is_expanded": Missing(BUFFERS),
    "rolls_the_optimizers_state_back": Missing(STATE),
    "clears_the_optimizers_state": Missing(STATE),
    "assigns_a_new_state": Missing(STATE),
    "reads_an_average_of_the_optimizer": Missing(STATE),
    "copies_the_optimizer": Missing(STATE),
}


def is_not_yet(case: Case) -> str:
    """What is missing for this case; empty if nothing is."""
    missing = NOT_YET.get(case.habit.name)
    if missing is None or missing.overlap not in (None, case.setting.overlap):
        return ""
    return missing.what
