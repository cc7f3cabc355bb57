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
