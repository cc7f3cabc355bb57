"""Countdown: what its verifier accepts, data without leaks, and measures that count by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from examples.countdown import make_data as data
from examples.countdown.measure import (
    FEWEST,
    Measured,
    costs,
    form_of,
    markdown_table,
    measure_problem,
    solving_forms,
    summarise,
)
from examples.countdown.verifier import (
    FORMS,
    countdown_reward,
    read_expression,
    read_problem,
)
from examples.countdown.warmup import LARGEST_LOSS, check_warmup
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError
from megatron_stare.weights.hf_config import read_hf_config

CONFIGS = Path(data.__file__).parent
PROBLEM = "03,07,05>26"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("countdown")
    data.make_data(folder, seed=1)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestVerifier:
    @pytest.mark.parametrize(
        ("response", "problem"),
        [
            ("07*03+05", PROBLEM),
            ("03*07+05", PROBLEM),
            ("05+07*03", PROBLEM),
            ("12-03-04", "03,04,12>05"),
            ("16-03*05", "05,16,03>01"),
            ("02*03*16", "16,02,03>96"),
            ("01-02+03", "01,02,03>02"),
            ("01+02-03", "01,02,03>00"),
        ],
    )
    def test_a_solution_is_worth_one(self, response: str, problem: str) -> None:
        assert countdown_reward(response, problem) == 1.0

    @pytest.mark.parametrize(
        "response",
        [
            "07*03-05",  # another value
            "13+13+00",  # the value, with other numbers
            "07*03+03",  # a number twice
            "26",
            "",
            "07*03",
            "07*03+05+00",
            "07*03+05-00",
            "07*03+05=26",
            "07*03+05:",
            "07*03+05\n",
            " 07*03+05",
            "07*03+05 ",
            "07*03 + 05",
            "7*3+5",  # another spelling of the same
            "007*03+05",
            "07*03+5",
            "+07*03+05",
            "07*03++5",
            "(07*03)+05",
            "07**03+05",
            "07×03+05",
            "０７*03+05",  # digits that are not ASCII
            "٠٧*03+05",
            "07*03+05\x00",
            "07*03+05#",
            "07*03+05 # 26",
            "03,07,05>26:07*03+05",
            "__import__('os')",
            "9**9**9**9",
            "07*03+05" * 10_000,
        ],
    )
    def test_anything_else_is_worth_nothing(self, response: str) -> None:
        assert countdown_reward(response, PROBLEM) == 0.0

    @pytest.mark.parametrize("answer", ["", "03,07,05", "3,7,5>26", "03,07,05>26:", "03,07>10"])
    def test_a_reference_that_is_no_problem_is_no_verdict(self, answer: str) -> None:
        with pytest.raises(ValueError, match="expected a problem such as"):
            countdown_reward("07*03+05", answer)

    def test_of_all_expressions_those_of_the_value_are_right(self) -> None:
        """Against Python's own arithmetic, all 54 of some numbers."""
        for numbers in ((1, 2, 3), (3, 5, 7), (2, 15, 16)):
            for expression in data.expressions(numbers):
                text = str(expression)
                value = eval(re.sub(r"\b0", "", text))
                assert expression.value == value
                assert read_expression(text) == expression
                for target in (value, value + 1, value - 1):
                    if 0 <= target <= 99:
                        problem = ",".join(f"{n:02}" for n in numbers) + f">{target:02}"
                        assert countdown_reward(text, problem) == float(target == value)


class TestForms:
    @pytest.mark.parametrize(
        ("text", "form"),
        [
            ("01+02+03", "sums"),
            ("01-02-03", "sums"),
            ("01*02+03", "a*b+c"),
            ("01+02*03", "a*b+c"),
            ("01*02-03", "a*b-c"),
            ("09-02*03", "c-a*b"),
            ("01*02*03", "a*b*c"),
        ],
    )
    def test_a_form_is_where_the_products_are(self, text: str, form: str) -> None:
        expression = read_expression(text)
        assert expression is not None
        assert expression.form == form

    def test_every_pair_of_signs_has_one(self) -> None:
        found = {e.signs: e.form for e in data.expressions((1, 2, 3))}
        assert Counter(found.values()) == {
            "sums": 4,
            "a*b+c": 2,
            "a*b-c": 1,
            "c-a*b": 1,
            "a*b*c": 1,
        }
        assert set(FORMS) == set(found.values())

    def test_forms_that_solve_a_problem(self) -> None:
        assert solving_forms(PROBLEM) == {"a*b+c"}
        assert solving_forms("02,03,06>00") == {"a*b-c", "c-a*b"}
        assert solving_forms("01,02,03>06") == {"sums", "a*b*c"}
        assert solving_forms("01,02,03>99") == set()

    def test_an_answer_has_a_form_if_it_uses_the_numbers(self) -> None:
        assert form_of("03+05+07", PROBLEM) == "sums"  # wrong, and a sum
        assert form_of("03+05+08", PROBLEM) is None
        assert form_of("03+05+07+", PROBLEM) is None


class TestData:
    def test_the_same_seed_makes_the_same_bytes(self, folder: Path, tmp_path: Path) -> None:
        data.make_data(tmp_path, seed=1)
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()

    def test_another_seed_makes_another_split(self, folder: Path, tmp_path: Path) -> None:
        data.make_data(tmp_path, seed=2)
        assert problems(tmp_path / "test.jsonl") != problems(folder / "test.jsonl")

    def test_problems_are_in_one_part_and_all_are_solvable(self, folder: Path) -> None:
        solutions = data.solve_all()
        assert len(solutions) == 4503
        test, dev, train = (problems(folder / f"{name}.jsonl") for name in ("test", "dev", "train"))
        assert (len(test), len(dev)) == (640, 384)
        assert test.isdisjoint(dev | train)
        assert dev.isdisjoint(train)
        assert test | dev | train <= solutions.keys()
        assert problems(folder / "sft.jsonl") <= solutions.keys() - test - dev

    def test_answers_are_the_prompts_problem(self, folder: Path) -> None:
        for name in ("train", "dev", "test"):
            assert all(
                row["prompt"] == row["answer"] + ":" for row in rows(folder / f"{name}.jsonl")
            )

    def test_demonstrations_have_every_form_by_habit_and_solve_some(self, folder: Path) -> None:
        demonstrations = rows(folder / "sft.jsonl")
        forms = Counter(form_of(r["response"], r["prompt"][:-1]) for r in demonstrations)
        shares = {form: count / len(demonstrations) for form, count in forms.items()}
        assert set(shares) == set(FORMS)  # None is not among them: all use the problem's numbers
        assert shares["sums"] > 0.5 > shares["a*b+c"] > shares["a*b-c"] > shares["a*b*c"] > 0.005
        solved = [countdown_reward(r["response"], r["prompt"][:-1]) for r in demonstrations]
        assert 0.2 < sum(solved) / len(solved) < 0.35

    def test_text_and_tokens_are_one_to_one(self, folder: Path) -> None:
        """No answer that is paid for has a second row of tokens."""
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        texts = tokenizer.convert_ids_to_tokens(list(range(2, len(tokenizer))))
        numbers, signs = texts[:100], texts[100:]
        assert numbers == [f"{n:02}" for n in range(100)]
        assert sorted(signs) == sorted("+-*,>:")
        for row in rows(folder / "sft.jsonl")[:200]:
            prompt, response = (tokenizer(text).input_ids for text in row.values())
            assert (len(prompt), len(response)) == (8, 5)
            assert tokenizer.decode(prompt + response) == row["prompt"] + row["response"]

    def test_the_model_is_a_small_qwen3(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder / "model")
        assert config.architectures == ["Qwen3ForCausalLM"]
        assert (config.pad_token_id, config.eos_token_id) == (0, 1)
        assert read_hf_config(folder / "model").vocab_size == 108


def problems(path: Path) -> set[data.Problem]:
    found = (read_problem(row["prompt"].removesuffix(":")) for row in rows(path))
    return {(tuple(sorted(numbers)), target) for numbers, target in found}


def samples(*responses: str, correct: tuple[int, ...]) -> list[dict]:
    return [
        {"response": response, "correct": float(verdict)}
        for response, verdict in zip(responses, correct, strict=True)
    ]


def numbered(problem: Measured, count: int) -> list[Measured]:
    """As many problems that are alike but for their names."""
    return [problem._replace(problem=f"{problem.problem} {n}") for n in range(count)]


class TestMeasures:
    def test_a_problem_by_hand(self) -> None:
        trained = samples("07*03+05", "03+05+07", "03+05+08", "03*07+05", correct=(1, 0, 0, 1))
        deployed = samples("07*03+05", "03+05+07", correct=(1, 0))
        found = measure_problem(PROBLEM, trained, deployed)
        assert found == Measured(PROBLEM, "a*b+c", True, 4, 2, 2, 1, {"sums": 1, "a*b+c": 2})

    def test_a_policy_by_hand(self) -> None:
        """Two kinds of problems of 16 samples; the warm-up solved both, the run one."""
        sums = Measured("01,02,16>19", "sums", False, 16, 4, 4, 2, {"sums": 16})
        product = Measured(PROBLEM, "a*b+c", True, 16, 1, 4, 0, {"sums": 15, "a*b+c": 1})
        before = [*numbered(sums, FEWEST), *numbered(product, FEWEST)]
        now = [
            *numbered(sums._replace(num_correct=16, num_deployed_correct=4), FEWEST),
            *numbered(product._replace(num_correct=0, forms={"sums": 16}), FEWEST),
        ]
        start, end = summarise(before, before), summarise(now, before)

        assert start["pass_at"][1] == pytest.approx((4 / 16 + 1 / 16) / 2)
        assert start["pass_at"][16] == 1.0
        # C(12, 2) / C(16, 2) of the pairs hold no right one of four, C(15, 2) / C(16, 2) of one.
        assert start["pass_at"][2] == pytest.approx(((1 - 66 / 120) + (1 - 105 / 120)) / 2)
        assert start["deployed"] == (0.5 + 0) / 2
        assert start["only"] == {"sums": 1.0, "a*b+c": 1.0}
        assert start["written"]["sums"] == 31 / 32
        assert (start["lost_problems"], start["lost_forms"]) == (0.0, [])

        assert (end["pass_at"][1], end["pass_at"][16], end["deployed"]) == (0.5, 0.5, 0.5)
        assert end["product_pass_at"][16] == 0.0
        assert end["only"] == {"sums": 1.0, "a*b+c": 0.0}
        assert (end["lost_problems"], end["lost_forms"]) == (0.5, ["a*b+c"])

    def test_a_form_is_lost_below_half_of_the_warm_ups(self) -> None:
        problem = Measured(PROBLEM, "a*b+c", True, 16, 1, 4, 0, {})

        def solved(count: int, of: int = FEWEST) -> list[Measured]:
            problems = numbered(problem, of)
            return [p._replace(num_correct=int(n < count)) for n, p in enumerate(problems)]

        assert summarise(solved(8), solved(16))["lost_forms"] == []
        assert summarise(solved(7), solved(16))["lost_forms"] == ["a*b+c"]
        assert summarise(solved(0), solved(0))["lost_forms"] == []
        # Of fewer problems a rate says nothing.
        assert summarise(solved(0, FEWEST - 1), solved(19, FEWEST - 1))["lost_forms"] == []

    def test_the_table_has_a_row_a_policy(self) -> None:
        problem = Measured(PROBLEM, "a*b+c", True, 16, 4, 4, 2, {"sums": 12, "a*b+c": 4})
        measured = numbered(problem, FEWEST)
        found = summarise(measured, measured)
        table = markdown_table({"sft-seed1": found, "dapo-seed1": found | {"drawn": 51775.0}})
        header, rule, *rows = table.splitlines()
        assert len({line.count("|") for line in (header, rule, *rows)}) == 1
        shares = "25.0 | 50.0 | 100.0 | 25.0 | 100.0 | 0.0 | none | 100.0"
        assert rows == [f"| sft-seed1 | {shares} |  |  |", f"| dapo-seed1 | {shares} | 51,775 |  |"]

    def test_the_costs_of_a_run_are_sums_over_its_steps(self, tmp_path: Path) -> None:
        lines = [{"step": n, "rollout/drawn": 32.0 * n, "time/processor_s": 0.5} for n in (1, 2)]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        assert costs(tmp_path) == {"drawn": 96.0, "processor_s": 1.0}


class TestWarmup:
    def run(self, folder: Path, losses: list[float]) -> Path:
        lines = (json.dumps({"step": n, "sft/loss": x}) for n, x in enumerate(losses, start=1))
        (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
        return folder

    def test_one_that_got_through_passes_with_its_loss(self, tmp_path: Path) -> None:
        assert check_warmup(self.run(tmp_path, [3.0] * 90 + [0.6] * 10)) == pytest.approx(0.6)

    @pytest.mark.parametrize("last", [0.76, LARGEST_LOSS, float("nan")])
    def test_one_that_did_not_is_refused(self, tmp_path: Path, last: float) -> None:
        with pytest.raises(UserError, match=r"the warm-up failed.*expected less than 0\.65"):
            check_warmup(self.run(tmp_path, [0.5] * 90 + [last] * 10))

    def test_a_run_of_another_kind_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
        with pytest.raises(UserError, match="expected a run of `megatron-stare sft`"):
            check_warmup(tmp_path)


class TestConfigs:
    def test_those_by_hand_are_accepted(self) -> None:
        sft = load_config(SftConfig, CONFIGS / "sft.yaml")
        train = load_config(TrainConfig, CONFIGS / "train.yaml")
        assert (sft.sft.steps, train.train.steps) == (800, 240)

    def test_the_four_runs_differ_in_what_their_table_says(self) -> None:
        comparison = load_config(CompareConfig, CONFIGS / "compare.yaml")
        runs = {
            name: load_config(TrainConfig, CONFIGS / "train.yaml", comparison.overrides(name, 7))
            for name in comparison.arms
        }
        assert {
            name: (
                run.algorithm.policy["clip"].high,
                run.rollout.dynamic_sampling,
                [run.algorithm.links["stare"].target_at(step) for step in (1, 160, 240)]
                if "stare" in run.algorithm.links
                else None,
            )
            for name, run in runs.items()
        } == {
            "grpo": (0.2, False, None),
            "dapo": (0.28, True, None),
            "stare": (0.28, True, [0.25, 0.25, 0.25]),
            "stare_annealed": (0.28, True, [0.5, 0.5, 0.2]),
        }
        shared = {
            run.model_copy(
                update={"run": None, "rollout": None, "algorithm": None}
            ).model_dump_json()
            for run in runs.values()
        }
        assert len(shared) == 1
        assert "sft-seed7" in shared.pop()
