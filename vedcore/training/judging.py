"""The judge of a run: texts that the model generates of held-back rows, compared with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vedcore.data import Data
from vedcore.evaluation.metrics import error_rates
from vedcore.evaluation.reading import Reading, read_rows
from vedcore.model import VisionEncoderDecoder
from vedcore.training.config import TrainingConfig
from vedcore.training.progress import Display

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Judge"]


class Judge:
    """Evaluates a model on sets of rows.

    Args:
        sets: names to rows; the first decides which model is the best, the others show what it forgets.
        config: names the batch size, the options of generation and the number of rows.
        accelerator: shares the rows among processes.
        display: shows sample predictions.
    """

    def __init__(
        self, sets: Mapping[str, Data], config: TrainingConfig, accelerator: Accelerator, display: Display
    ) -> None:
        self.sets, self.config, self.accelerator, self.display = sets, config, accelerator, display
        self.scores: dict[str, dict[str, Any]] = {}

    def evaluate(self, model: VisionEncoderDecoder, step: int) -> dict[str, Any]:
        """Read all sets, and give the scores of the first: ``cer``, ``wer``, ``exact_match``, ``rows``.

        Rows that cannot be read are left out, and counted as ``failed``.
        """
        for i, (name, data) in enumerate(self.sets.items()):
            readings = self._read(model, data)
            done = [reading for reading in readings if reading.error is None]
            rates = error_rates([r.text for r in done], [r.row.text for r in done])
            self.scores[name] = {**rates, "rows": len(done), "failed": len(readings) - len(done)}
            if self.accelerator.is_main_process:
                self.display.evaluation(name, step, self.scores[name])
                if i == 0:
                    self.display.samples(done, step)
        return next(iter(self.scores.values()))

    def lines(self, step: int) -> Iterator[dict[str, Any]]:
        """The lines of the log for the last evaluation."""
        for name, scores in self.scores.items():
            yield {"step": step, "evaluation": name, **scores}

    def named(self) -> dict[str, Any]:
        """The scores of the last evaluation for trackers: ``eval_cer``, and ``eval_NAME_cer`` of other data."""
        names = {name: f"eval_{name}_" if i else "eval_" for i, name in enumerate(self.scores)}
        return {names[name] + key: value for name, scores in self.scores.items() for key, value in scores.items()}

    def _read(self, model: VisionEncoderDecoder, data: Data) -> list[Reading]:
        """The readings of all processes, in the order of the rows."""
        config, accelerator = self.config, self.accelerator
        options: dict[str, Any] = {
            "max_length": config.generation_max_length,
            "num_beams": config.generation_num_beams,
        }
        given = {name: value for name, value in options.items() if value is not None}
        rows = data.rows
        assert rows is not None  # a stream is not evaluated
        count = min(len(rows), config.eval_rows or len(rows))
        own = rows.at(range(accelerator.process_index, count, accelerator.num_processes))
        readings = list(read_rows(model, Data(data.source, own), config.per_device_eval_batch_size, **given))
        if accelerator.num_processes == 1:
            return readings
        from accelerate.utils import gather_object

        numbered = [(accelerator.process_index + i * accelerator.num_processes, r) for i, r in enumerate(readings)]
        return [reading for _, reading in sorted(gather_object(numbered), key=lambda pair: pair[0])]
