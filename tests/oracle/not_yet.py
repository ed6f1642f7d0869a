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
PUBLISH = "optimizer.publish()"
BY_SERVER = "a group's clamp= and max_norm=, which the server applies"
LEFT = "with overlap, nobody reads or changes gradients that have left without an error"
ZEROS = "zero_grad(set_to_none=False): a gradient of zeros is stepped on, as in torch"
KEPT = "a gradient that somebody keeps stays what it was"
USED_UP = "nobody takes gradients that step() has used up for those of torch"
MEMORY = "whatever shares a parameter's memory is noticed"
DTYPE = "a parameter that changes its dtype is noticed"
BUFFERS = "a shared buffer may hold anything, and change until step()"
GROUPS = "groups of parameters have options of their own"
RATES = "options that change from step to step"
CLIPPING = "clip_norm="
STATE = "the optimizer's state: loaded, or refused by name"
CLOSED = "a closed optimizer says so"

NOT_YET: Final[dict[str, Missing]] = {
    "goes_backward_through_earlier_steps": Missing(ABSENT),
    "names_tied_weights_twice": Missing(MEMORY),
    "publishes_between_backward_and_step": Missing(PUBLISH),
    "steps_after_it_was_closed": Missing(CLOSED),
    "transposes_a_gradient": Missing(KEPT),
    "freezes_between_forward_and_backward": Missing(ABSENT, overlap=True),
    "takes_some_gradients_away_before_the_step": Missing(LEFT, overlap=True),
    "zeroes_the_model_between_backward_and_step": Missing(LEFT, overlap=True),
    "moves_a_frozen_teacher_that_the_optimizer_was_given": Missing(ABSENT),
    "sets_gradients_of_unused_heads_to_zero": Missing(ZEROS),
    "freezes_with_zeroed_gradients": Missing(ZEROS),
    "scales_the_loss_of_a_model_with_a_frozen_layer": Missing(LEFT, overlap=True),
    "clamps_weights_after_each_step": Missing(OUTSIDE),
    "clamps_the_data_of_weights_after_each_step": Missing(OUTSIDE),
    "clamps_one_bias_through_data": Missing(OUTSIDE),
    "assigns_the_data_of_weights": Missing(OUTSIDE),
    "assigns_new_data_once": Missing(OUTSIDE),
    "writes_a_vector_into_the_parameters": Missing(OUTSIDE),
    "applies_a_pruning_mask_after_each_step": Missing(OUTSIDE),
    "makes_a_pruning_permanent_while_training": Missing(OUTSIDE),
    "loads_a_state_dict_after_the_optimizer_was_made": Missing(OUTSIDE),
    "initializes_weights_after_the_optimizer_was_made": Missing(OUTSIDE),
    "resets_a_layer_while_training": Missing(OUTSIDE),
    "rolls_back_to_the_best_weights": Missing(OUTSIDE),
    "copies_an_average_back": Missing(OUTSIDE),
    "looks_ahead_by_hand": Missing(OUTSIDE),
    "renormalizes_an_embedding_in_forward": Missing(OUTSIDE),
    "decays_weights_by_hand": Missing(OUTSIDE),
    "steps_by_hand_over_one_layer": Missing(OUTSIDE),
    "changes_weights_before_backward": Missing(OUTSIDE),
    "pulls_an_image_into_its_range": Missing(OUTSIDE),
    "goes_to_half_precision_and_back": Missing(OUTSIDE),
    "clips_the_weights_of_a_critic": Missing(OUTSIDE),
    "gives_one_parameter_to_two_optimizers": Missing(OUTSIDE),
    "publishes_pretrained_weights": Missing(PUBLISH),
    "publishes_what_was_clamped": Missing(PUBLISH),
    "publishes_the_best_weights_again": Missing(PUBLISH),
    "has_the_server_clamp_a_group": Missing(BY_SERVER),
    "has_the_server_limit_the_norm_of_rows": Missing(BY_SERVER),
    "clips_inside_a_closure": Missing(LEFT, overlap=True),
    "clips_in_a_hook_before_the_step": Missing(LEFT, overlap=True),
    "clips_the_norm_of_the_gradient": Missing(LEFT, overlap=True),
    "clips_the_values_of_gradients": Missing(LEFT, overlap=True),
    "adds_noise_to_gradients_by_hand": Missing(LEFT, overlap=True),
    "replaces_gradients_by_hand": Missing(LEFT, overlap=True),
    "replaces_the_data_of_gradients": Missing(LEFT, overlap=True),
    "logs_the_norm_of_the_gradient_before_the_step": Missing(LEFT, overlap=True),
    "keeps_clones_of_gradients": Missing(LEFT, overlap=True),
    "mends_gradients_that_are_not_finite": Missing(LEFT, overlap=True),
    "hooks_in_behind_accumulation_after_the_optimizer_is_made": Missing(LEFT, overlap=True),
    "shares_one_gradient_between_two_parameters": Missing(LEFT, overlap=True),
    "sharpens_with_sam": Missing(LEFT, overlap=True),
    "sharpens_with_sam_and_goes_back_by_data": Missing(LEFT, overlap=True),
    "centralizes_gradients": Missing(LEFT, overlap=True),
    "freezes_rows_by_zeroing_their_gradients": Missing(LEFT, overlap=True),
    "assigns_a_gradient_to_a_frozen_parameter": Missing(LEFT, overlap=True),
    "scales_the_loss": Missing(LEFT, overlap=True),
    "scales_the_loss_and_leaves_out_what_overflows": Missing(LEFT, overlap=True),
    "scales_the_loss_and_clips": Missing(LEFT, overlap=True),
    "keeps_the_gradients_of_an_earlier_backward": Missing(KEPT, overlap=False),
    "keeps_the_gradients_of_the_step_before": Missing(KEPT),
    "zeroes_gradients_that_it_has_kept": Missing(KEPT),
    "exchanges_the_gradients_of_two_parameters": Missing(KEPT),
    "scales_gradients_that_a_hook_has_collected": Missing(KEPT),
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
    "decays_no_biases": Missing(GROUPS),
    "gives_a_group_its_own_rate": Missing(GROUPS),
    "gives_a_group_its_own_momentum": Missing(GROUPS),
    "gives_a_group_nesterovs_momentum": Missing(GROUPS),
    "gives_a_group_its_own_betas": Missing(GROUPS),
    "gives_a_group_amsgrad": Missing(GROUPS),
    "lets_a_group_ascend": Missing(GROUPS),
    "gives_a_group_a_name": Missing(GROUPS),
    "freezes_a_group_with_a_rate_of_zero": Missing(GROUPS),
    "takes_a_parameter_out_of_its_group": Missing(GROUPS),
    "puts_a_new_parameter_in_a_group": Missing(GROUPS),
    "schedules_groups_apart": Missing(GROUPS),
    "decays_the_rate_in_steps": Missing(RATES),
    "decays_the_rate_at_milestones": Missing(RATES),
    "decays_the_rate_exponentially": Missing(RATES),
    "anneals_the_rate_by_a_cosine": Missing(RATES),
    "anneals_the_rate_and_restarts": Missing(RATES),
    "warms_the_rate_up": Missing(RATES),
    "chains_a_warm_up_and_a_cosine": Missing(RATES),
    "follows_a_rate_of_its_own": Missing(RATES),
    "lowers_the_rate_on_a_plateau": Missing(RATES),
    "follows_one_cycle_with_its_momentum": Missing(RATES),
    "follows_one_cycle_without_momentum": Missing(RATES),
    "cycles_the_rate_and_the_momentum": Missing(RATES),
    "ends_with_a_rate_for_averaging": Missing(RATES),
    "sets_the_rate_by_hand": Missing(RATES),
    "sets_the_weight_decay_by_hand": Missing(RATES),
    "sets_the_rate_as_a_tensor": Missing(RATES),
    "schedules_on_both_sides": Missing(RATES),
    "has_the_optimizer_clip_the_norm": Missing(CLIPPING),
    "has_the_optimizer_clip_accumulated_gradients": Missing(CLIPPING),
    "loads_a_state_dict_of_torchs_optimizer": Missing(STATE),
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
