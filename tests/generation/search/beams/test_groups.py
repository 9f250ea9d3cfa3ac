"""Groups of beams against a plain reference, and what follows from the rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

VOCAB = 14
EOS = (2, 5, 9)
PROMPT = torch.tensor([[1], [7], [4]])


def _tables(seed: int) -> torch.Tensor:
    return torch.randn(9, VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def _by_step(table_state: Any, tables: torch.Tensor) -> Any:
    """A state whose tables (L, V, V) change with each step, so that no two texts have the same score."""

    class Tables(table_state):  # type: ignore[misc]
        def _logits(self, last: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.table[self.calls - 1][last]

    return Tables(tables)


def _reference(table: torch.Tensor, start: int, options: dict[str, Any]) -> list[tuple[float, list[int]]]:
    """The best texts of one prompt, group by group, in plain Python over a table of each step."""
    log_probs = table.log_softmax(2).tolist()
    groups, penalty = options["num_beam_groups"], options["diversity_penalty"]
    width, most, power = options["num_beams"] // groups, options["max_new_tokens"], options.get("length_penalty", 1.0)
    count = (1 + len(EOS)) * width
    running: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(groups)]
    pools: list[list[tuple[float, list[int]]]] = [[] for _ in range(groups)]
    done = [False] * groups
    for length in range(1, most + 1):
        written: Counter[int] = Counter()
        for group in range(groups):
            if done[group]:
                continue
            found = [
                (
                    score + log_probs[length - 1][text[-1] if text else start][token] - penalty * written[token],
                    [*text, token],
                )
                for score, text in running[group]
                for token in range(VOCAB)
            ]
            found = sorted(found, reverse=True)[:count]
            new = [(score / length**power, text) for score, text in found[:width] if length == most or text[-1] in EOS]
            pools[group] = sorted(pools[group] + new, reverse=True)[:width]
            running[group] = [one for one in found if one[1][-1] not in EOS][:width]
            written.update(text[-1] for _, text in running[group])
            if len(pools[group]) == width:
                full = options.get("early_stopping", False) is True
                done[group] = full or running[group][0][0] / length**power <= pools[group][-1][0]
    return sorted((text for pool in pools for text in pool), reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
        {"num_beams": 3, "num_beam_groups": 3, "diversity_penalty": 5.0},
        {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 1.5, "length_penalty": -0.5},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.3, "early_stopping": True, "length_penalty": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(4))
def test_reference(table_state: Any, run: Any, options: dict[str, Any], seed: int) -> None:
    table, options = _tables(seed), {**options, "max_new_tokens": 3 + seed * 2}
    count = options["num_beams"]
    out = run(
        _by_step(table_state, table), PROMPT, vocab=VOCAB, eos_token_id=EOS, num_return_sequences=count, **options
    )
    for i, start in enumerate(PROMPT[:, 0].tolist()):
        expected = _reference(table, start, options)
        rows = range(i * count, (i + 1) * count)
        assert [out.sequences[r, 1 : 1 + out.lengths[r]].tolist() for r in rows] == [text for _, text in expected]
        scores = torch.tensor([score for score, _ in expected])
        torch.testing.assert_close(out.sequences_scores[i * count : (i + 1) * count], scores, atol=1e-4, rtol=1e-4)


def test_groups_that_hardly_mind_each_other_are_beam_searches(gpt2: Any, gpt2_state: Any, run: Any) -> None:
    prompt = torch.tensor([[1, 5, 9], [1, 7, 3]])
    options = {"eos_token_id": (2, 11, 17), "pad_token_id": 0, "max_new_tokens": 8}
    alone = run(gpt2_state(gpt2), prompt, num_beams=2, num_return_sequences=2, **options)
    groups = {"num_beam_groups": 2, "diversity_penalty": 1e-12, "num_beams": 4, "num_return_sequences": 4}
    both = run(gpt2_state(gpt2), prompt, **groups, **options, output_scores=True, output_logits=True)
    assert both.sequences[::2].tolist() == alone.sequences.tolist()
    assert both.sequences[1::2].tolist() == alone.sequences.tolist()
    assert {tuple(scores.shape) for scores in (*both.scores, *both.logits)} == {(8, 40)}
    differ = run(gpt2_state(gpt2), prompt, **{**groups, "diversity_penalty": 20.0}, **options)
    for i in range(2):
        texts = [row[3:] for row in differ.sequences[4 * i : 4 * i + 4].tolist()]
        assert len(set(map(tuple, texts))) == 4
        assert len({text[0] for text in texts}) > 1


def test_processors_see_the_rows_of_their_group(gpt2: Any, gpt2_state: Any, run: Any) -> None:
    options = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.0, "max_new_tokens": 12}
    out = run(gpt2_state(gpt2), torch.tensor([[1, 5], [1, 7]]), **options, no_repeat_ngram_size=1, eos_token_id=())
    assert all(len(set(row)) == 14 for row in out.sequences.tolist())
    torch.testing.assert_close(out.sequences_scores.isfinite(), torch.ones(2, dtype=torch.bool))
