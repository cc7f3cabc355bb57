"""How samples become one packed row, and which positions predict their response tokens."""

from __future__ import annotations

import torch

from megatron_stare.policy.packed import pack

CPU = torch.device("cpu")


def test_rows_predict_exactly_the_response_tokens():
    samples = [torch.tensor([10, 11, 12, 13]), torch.tensor([20, 21]), torch.tensor([30, 31, 32])]
    packed = pack(samples, [2, 1, 3], pad_to_multiple=1, device=CPU)
    assert packed.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 30, 31, 32]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert packed.rows.tolist() == [1, 2, 4]
    assert packed.targets.tolist() == [12, 13, 21]
    assert packed.packed_seq_params.cu_seqlens_q.tolist() == [0, 4, 6, 9]
    assert packed.packed_seq_params.cu_seqlens_q.dtype == torch.int32
    assert packed.packed_seq_params.max_seqlen_q == 4


def test_tokens_under_the_loss_mask_have_a_place_but_no_row():
    samples = [torch.tensor([10, 11, 12, 13]), torch.tensor([20, 21, 22])]
    masks = [torch.tensor([False, True]), torch.tensor([True, False])]
    packed = pack(samples, [2, 1], masks, pad_to_multiple=1, device=CPU)
    assert packed.rows.tolist() == [2, 4]
    assert packed.targets.tolist() == [13, 21]
    assert packed.places.tolist() == [1, 2]
    assert packed.num_tokens == 4


def test_padding_is_a_sequence_of_its_own():
    packed = pack([torch.arange(5)], [2], pad_to_multiple=4, device=CPU)
    assert packed.input_ids.shape == (1, 8)
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert packed.packed_seq_params.cu_seqlens_kv.tolist() == [0, 5, 8]
    assert packed.targets.tolist() == [2, 3, 4]


def test_no_samples_make_a_micro_batch_without_rows():
    packed = pack([], [], pad_to_multiple=2, device=CPU)
    assert packed.input_ids.shape == (1, 2)
    assert packed.rows.shape == packed.targets.shape == (0,)
    assert packed.rows.dtype == packed.targets.dtype == torch.int64


def test_a_token_is_predicted_on_the_rank_that_holds_the_position_before_it():
    samples = [torch.tensor([10, 11, 12, 13, 14, 15]), torch.tensor([20, 21, 22])]
    parts = [
        pack(samples, [2, 1], pad_to_multiple=8, device=CPU, cp_rank=rank, cp_size=2)
        for rank in range(2)
    ]
    assert [part.input_ids.tolist() for part in parts] == [
        [[10, 11, 0, 0, 20, 0, 0, 0]],
        [[12, 13, 14, 15, 21, 22, 0, 0]],
    ]
    assert [part.position_ids.tolist() for part in parts] == [
        [[0, 1, 6, 7, 0, 3, 0, 3]],
        [[2, 3, 4, 5, 1, 2, 1, 2]],
    ]
    assert [part.rows.tolist() for part in parts] == [[1, 4], [0, 1, 2, 4]]
    assert [part.targets.tolist() for part in parts] == [[12, 21], [13, 14, 15, 22]]
    assert [part.places.tolist() for part in parts] == [[0, 4], [1, 2, 3, 5]]
    assert {part.num_tokens for part in parts} == {6}
    assert parts[0].packed_seq_params.cu_seqlens_q.tolist() == [0, 8, 12, 16]


def test_every_response_token_has_one_place_over_the_context_ranks():
    lengths, prompts = [2, 37, 5, 64, 11], [1, 20, 4, 1, 10]
    samples = [torch.randint(256, (length,)) for length in lengths]
    whole = pack(samples, prompts, pad_to_multiple=1, device=CPU)
    parts = [
        pack(samples, prompts, pad_to_multiple=16, device=CPU, cp_rank=rank, cp_size=4)
        for rank in range(4)
    ]
    order = torch.cat([part.places for part in parts]).argsort()
    assert torch.equal(torch.cat([part.targets for part in parts])[order], whole.targets)
    assert len({part.input_ids.shape for part in parts}) == 1


def test_no_samples_make_padding_on_every_context_rank():
    for rank in range(2):
        packed = pack([], [], pad_to_multiple=4, device=CPU, cp_rank=rank, cp_size=2)
        assert packed.input_ids.shape == (1, 2)
        assert packed.rows.shape == packed.places.shape == (0,)
