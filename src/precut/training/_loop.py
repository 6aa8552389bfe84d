"""The training loop: steps, epochs, checkpoints."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from precut.data import BatchLoader
from precut.errors import PrecutError
from precut.training._callback import Callback, TrainState
from precut.training._devices import agree, gather, share_buffers
from precut.training._objective import Objective
from precut.training._optim import lr_factor, set_rates
from precut.training._progress import Progress, describe
from precut.training._run import RunFolder, TensorBoard
from precut.training._signals import StopRequest, TrainingInterrupted
from precut.training._state import get_rng, load_optimizer, optimizer_state, read_tree, set_rng, write_tree

__all__ = ["Loop"]

# With several processes, or an accelerator, asking "did anything happen?" makes everybody wait: only every so often.
_POLL_STEPS = 10


class Loop:
    """One run, from its first or its next step to its last.

    Args:
        state: model, optimiser, average; counters at 0.
        wrapped, optimizer: model and optimiser as Fabric set them up.
        loader: training batches of this process.
        validation: batches to choose the best epoch by, or None for the last.
        classes: number of classes.
        precision: of validation.
        callbacks: see :class:`Callback`.
        run: where everything is written, or None.
        progress: told of it.
        checkpoint_steps, checkpoint_seconds: how often to checkpoint within an epoch; None for never.
        objective: what a step minimises.
    """

    def __init__(
        self,
        state: TrainState,
        wrapped: nn.Module,
        optimizer: Any,
        loader: BatchLoader,
        validation: BatchLoader | None,
        classes: int,
        precision: str,
        callbacks: Sequence[Callback],
        run: RunFolder | None,
        progress: Progress,
        checkpoint_steps: int | None,
        checkpoint_seconds: float | None,
        objective: Objective,
    ) -> None:
        self.state = state
        self._objective = objective
        self.best: dict[str, Any] | None = None
        self._wrapped = wrapped
        self._optimizer = optimizer
        self._loader = loader
        self._validation = validation
        self._classes = classes
        self._precision = precision
        self._callbacks = callbacks
        self._run = run
        self._progress = progress
        self._checkpoint_steps = checkpoint_steps
        self._checkpoint_seconds = checkpoint_seconds
        self._fabric = state.fabric
        self._device = state.fabric.device
        exact = torch.float32 if self._device.type == "mps" else torch.float64
        self._sums = torch.zeros(3, dtype=exact, device=self._device)  # loss, right, images of this epoch
        self._bad = torch.zeros((), dtype=torch.bool, device=self._device)
        self._stop = StopRequest()
        self._spent = 0.0  # seconds of this epoch in earlier sessions
        self._saved = "nothing is saved, since there is no run_dir"

    def restore(self) -> None:
        """Take up the run's last checkpoint. If there is none, write the first, so that the weights which the run
        began with are kept too."""
        if self._run is None:
            return
        if not self._run.state.is_file():
            self._checkpoint(0.0)
            return
        tree = read_tree(self._run.state)
        state = self.state
        for callback, kept in zip(self._callbacks, tree["callbacks"], strict=True):
            callback.load_state_dict(kept)
        state.model.load_state_dict(tree["model"])
        load_optimizer(state.optimizer, tree["optimizer"])
        if state.average is not None:
            state.average.load(tree["average"])
        state.epoch, state.batch, state.step = tree["epoch"], tree["batch"], tree["step"]
        seconds = self._run.read_seconds()
        state.history = [row | {"seconds": seconds.get(row["epoch"], 0.0)} for row in tree["history"]]
        self._spent = self._run.read_clock(state.step)
        own = tree["ranks"][self._fabric.global_rank]
        self._sums.copy_(own["sums"])
        set_rng(own["rng"], self._device)
        if tree["best_epoch"] is not None:
            # A crash between the two files leaves a later epoch's weights here; that epoch then comes again.
            self.best = read_tree(self._run.best)
        self._saved = self._where()
        self._progress.advance(state.step)
        self._progress.note(f"going on from epoch {state.epoch + 1}, step {state.step} of {state.steps}")

    def train(self) -> None:
        """Run to the end.

        Raises:
            TrainingInterrupted: a signal came; the run can be resumed.
            PrecutError: the loss or the weights are no longer finite.
        """
        board = None
        if self._run is not None and self._fabric.is_global_zero:
            self._run.write_metrics(self.state.history)  # without rows that the checkpoint does not know
            board = TensorBoard(self._run.path / "tensorboard", self.state.step)
        try:
            with self._stop:
                while self.state.epoch < self.state.recipe.epochs:
                    self._epoch(board)
        finally:
            if board is not None:
                board.close()

    def _epoch(self, board: TensorBoard | None) -> None:
        state = self.state
        started = time.perf_counter() - self._spent
        last_save = time.perf_counter()
        self._wrapped.train()
        self._loader.set_epoch(state.epoch)
        batches = itertools.islice(self._loader, state.batch, None)
        while state.batch < state.steps_per_epoch:
            images, labels = next(batches)
            self._step(images, labels)
            self._progress.advance(1)
            due = self._checkpoint_steps is not None and state.step % self._checkpoint_steps == 0
            ended = state.batch == state.steps_per_epoch
            if not (due or ended or self._polls_always() or state.step % _POLL_STEPS == 0):
                continue
            late = self._checkpoint_seconds is not None and time.perf_counter() - last_save > self._checkpoint_seconds
            late, stop, bad = agree([late, self._stop.received is not None, bool(self._bad)], self._fabric)
            if bad:
                self._fail("loss")
            if not ended and (due or late or stop):
                self._checkpoint(time.perf_counter() - started)
                last_save = time.perf_counter()
            if stop and not ended:
                self._interrupt()
        self._end_epoch(started, board)
        self._spent = 0.0
        if agree([self._stop.received is not None], self._fabric)[0] and state.epoch < state.recipe.epochs:
            self._interrupt()

    def _polls_always(self) -> bool:
        return self._device.type == "cpu" and self._fabric.world_size == 1

    def _step(self, images: Tensor, labels: Tensor) -> None:
        state, recipe = self.state, self.state.recipe
        set_rates(state.optimizer, lr_factor(recipe, state.step, state.steps, state.steps_per_epoch))
        self._optimizer.zero_grad(set_to_none=True)
        for callback in self._callbacks:
            callback.on_step_start(state)
        state.loss, logits = self._objective.backward(state, self._wrapped, images, labels, self._classes)
        self._bad |= ~torch.isfinite(state.loss)
        if self._polls_always() and bool(self._bad):
            return  # leave the weights as they were; the caller reports it
        if recipe.grad_clip:
            self._fabric.clip_gradients(
                self._wrapped, self._optimizer, max_norm=recipe.grad_clip, error_if_nonfinite=False
            )
        self._optimizer.step()
        right = (logits.argmax(1) == labels).sum()
        count = len(labels)
        self._sums += torch.stack([state.loss * count, right, right.new_tensor(count)]).to(self._sums.dtype)
        state.step += 1
        state.batch += 1
        for callback in self._callbacks:
            callback.on_step_end(state)
        if state.average is not None:
            state.average.update(state.step - 1)

    def _end_epoch(self, started: float, board: TensorBoard | None) -> None:
        state = self.state
        sums = sum(gather(self._sums.cpu(), self._fabric)).tolist()
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "lr": state.optimizer.param_groups[0]["lr"],
            "train_loss": sums[0] / sums[2],
            "train_accuracy": sums[1] / sums[2],
            "val_loss": None,
            "val_accuracy": None,
        }
        if state.average is not None:
            with state.average.applied():
                self._validate(row)
        else:
            self._validate(row)
        self._sums.zero_()
        state.epoch, state.batch = state.epoch + 1, 0
        state.history.append(row)
        for callback in self._callbacks:
            callback.on_epoch_end(state)
        row["seconds"] = round(time.perf_counter() - started, 3)
        self._checkpoint(0.0)
        self._progress.note(describe(row, state.recipe.epochs))
        if board is not None:
            board.add(row)

    def _validate(self, row: dict[str, Any]) -> None:
        """Fill the row's validation figures in, and keep the weights if they are the best so far."""
        model = self.state.model
        share_buffers(model, self._fabric)
        self._check_weights()
        if self._validation is not None:
            sums = self._objective.totals(model, self._validation, self._classes, self._precision)
            parts = gather(sums, self._fabric)
            loss, right, count = sum(parts).tolist()
            row["val_loss"], row["val_accuracy"] = loss / count, right / count
            if not math.isfinite(loss):
                self._fail("validation loss")
            if self.best is not None and not _better(row, self.best):
                return
        self.best = {
            "epoch": row["epoch"],
            "val_loss": row["val_loss"],
            "val_accuracy": row["val_accuracy"],
            "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
            "callbacks": [callback.state_dict() for callback in self._callbacks],
        }
        if self._run is not None and self._fabric.is_global_zero:
            write_tree(self._run.best, self.best)

    def _checkpoint(self, seconds: float) -> None:
        """Save the run as it stands; ``seconds`` of the current epoch are behind it."""
        if self._run is None:
            return
        state = self.state
        self._check_weights()
        ranks = gather({"rng": get_rng(self._device), "sums": self._sums.cpu()}, self._fabric)
        if self._fabric.is_global_zero:
            # First what a crash may leave ahead of the state: resuming cuts its rows back, and keeps their seconds.
            self._run.write_metrics(state.history)
            self._run.write_clock(state.step, round(seconds, 3))
            tree = {
                "epoch": state.epoch,
                "batch": state.batch,
                "step": state.step,
                "model": dict(state.model.state_dict()),
                "optimizer": optimizer_state(state.optimizer),
                "average": None if state.average is None else state.average.tensors,
                "callbacks": [callback.state_dict() for callback in self._callbacks],
                "history": [{k: v for k, v in row.items() if k != "seconds"} for row in state.history],
                "best_epoch": None if self.best is None else self.best["epoch"],
                "ranks": ranks,
            }
            write_tree(self._run.state, tree)
        self._fabric.barrier()
        self._saved = self._where()

    def _where(self) -> str:
        assert self._run is not None
        return f"the last good checkpoint is {str(self._run.state)!r} (step {self.state.step})"

    def _check_weights(self) -> None:
        """The loss is that of the weights before the step: what is about to be kept is looked at itself."""
        for name, tensor in self.state.model.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                self._fail(f"weight {name!r}")

    def _fail(self, what: str) -> None:
        state = self.state
        raise PrecutError(
            f"the {what} is not finite at epoch {state.epoch + 1}, step {state.step} "
            f"(learning rate {state.optimizer.param_groups[0]['lr']:g}); {self._saved}. "
            "Try a lower lr, a longer warmup, or grad_clip"
        )

    def _interrupt(self) -> None:
        state = self.state
        number = self._stop.received or 15
        done = f"stopped at epoch {state.epoch + 1}, step {state.step} of {state.steps}"
        if self._run is None:
            raise TrainingInterrupted(f"{done}; nothing is saved, since there is no run_dir", number)
        raise TrainingInterrupted(f"{done}; {str(self._run.path)!r} goes on from here with resume", number)


def _better(row: dict[str, Any], best: dict[str, Any]) -> bool:
    """More accurate on the validation images, or as accurate with less loss."""
    return (row["val_accuracy"], -row["val_loss"]) > (best["val_accuracy"], -best["val_loss"])
