"""What once would have stopped, slowed or broken a run on GPUs, and which tests would see it again.

Many need no fake device: they stand beside what they test. The table is held to by
`test_known_faults.py`.
"""

from __future__ import annotations

KNOWN_FAULTS: dict[str, tuple[str, ...]] = {
    "a checkpoint without Transformer Engine's extra states cannot be loaded with it": (
        "tests/unit/policy/test_sharded_state.py::test_only_parameters_are_saved_and_asked_for",
        "tests/distributed/test_policy_checkpoint.py"
        "::test_a_run_goes_on_with_another_kind_of_layers",
    ),
    "NCCL ends the trainer because of a slow server": (
        "tests/unit/engines/test_sync_on_gpus.py::test_a_slow_server_is_not_the_end_of_the_trainer",
    ),
    "a server ends at a handle of a GPU that it does not see": (
        "tests/unit/engines/test_sync_buckets.py"
        "::test_what_a_server_is_sent_names_shared_memory_and_no_gpu",
    ),
    "servers start on GPUs that they were not given": (
        "tests/unit/engines/test_sglang_offline.py"
        "::test_servers_stay_on_the_gpus_that_serve_was_given",
    ),
    "expandable segments for servers, which cannot give them up": (
        "tests/unit/slurm/test_script.py"
        "::test_what_only_trainers_should_have_in_their_environment_is_set_for_them_alone",
        "tests/unit/engines/test_sglang_offline.py"
        "::test_servers_that_give_up_memory_take_none_in_expandable_segments",
    ),
    "Transformer Engine is built without the headers of torch's libraries": (
        "tests/unit/test_dockerfile.py"
        "::test_transformer_engine_is_built_with_the_headers_of_torchs_own_libraries",
        "tests/unit/test_dockerfile.py::test_those_headers_come_with_the_pinned_torch",
    ),
    "two NCCL ranks on one GPU": (
        "tests/unit/engines/test_sglang_offline.py"
        "::test_servers_on_the_trainers_gpus_are_in_no_group_with_it",
    ),
    "float32 in Transformer Engine's attention": (
        "tests/unit/policy/test_transformer_engine.py"
        "::test_float32_has_layers_of_torch_where_transformer_engine_is",
    ),
    "groups of a layout that wait for less than a slow export takes": (
        "tests/distributed/test_groups.py::test_every_group_waits_as_long_as_the_world_does",
    ),
    "Transformer Engine's optimizer where there is no GPU": (
        "tests/unit/policy/test_transformer_engine.py"
        "::test_megatron_takes_transformer_engine_only_where_there_is_a_gpu",
    ),
    "a node whose driver is too old trains on its CPU": (
        "tests/unit/launch/test_gpus.py::test_a_driver_that_is_too_old_is_named",
        "tests/unit/launch/test_gpus.py::test_gpus_that_are_asked_for_must_answer",
    ),
    "a broadcast, or a copy to the host, in the way of the stream that computes": (
        "tests/unit/engines/test_sync_on_gpus.py"
        "::test_a_bucket_is_on_its_way_beside_the_stream_that_fills_the_next",
        "tests/unit/policy/test_staging.py"
        "::test_one_piece_is_on_its_way_while_the_other_is_emptied",
        "tests/unit/policy/test_staging.py::test_copies_come_after_what_the_device_was_asked_for",
    ),
    "a group that waits for ever for a server that died, or takes all of the GPU": (
        "tests/unit/engines/test_sync_on_gpus.py"
        "::test_a_group_with_a_server_that_died_can_be_aborted_before_its_ranks_have_met",
        "tests/unit/engines/test_sync_on_gpus.py"
        "::test_groups_with_many_servers_leave_room_on_the_gpu",
    ),
    "memory of a sync that no plan counts, or that a gather into a list takes twice": (
        "tests/unit/plan/test_plan.py"
        "::test_rank_0_has_buckets_and_checksums_of_what_it_sends_to_servers",
        "tests/distributed/test_weights.py::test_every_rank_gets_the_folders_tensors_in_one_order",
    ),
    "starting weights on the GPU while servers have their turn": (
        "tests/unit/run/test_learner.py::test_starting_weights_wait_on_the_host_beside_servers",
        "tests/unit/plan/test_plan.py"
        "::test_a_kl_penalty_takes_one_more_copy_of_the_weights_or_none_beside_servers",
    ),
    "a save that keeps moments on the GPU until it is whole": (
        "tests/distributed/test_policy_checkpoint.py::test_a_save_lets_go_of_what_it_has_copied",
    ),
    "random states of CPUs on as many GPUs": (
        "tests/distributed/test_random_states.py"
        "::test_random_states_of_another_kind_of_device_are_left",
    ),
    "a second cuDNN in the image": (
        "tests/unit/test_dockerfile.py"
        "::test_cuda_and_python_of_the_image_are_those_of_torch_and_of_the_project",
    ),
    "Apex, and architectures, that are built for nothing": (
        "tests/unit/test_dockerfile.py"
        "::test_every_package_of_the_image_is_pinned_by_a_constraints_file",
    ),
    "settings of trainers that make servers slower": (
        "tests/unit/slurm/test_script.py"
        "::test_what_only_trainers_should_have_in_their_environment_is_set_for_them_alone",
    ),
}
