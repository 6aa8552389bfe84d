"""A study in a database, and the loop that every worker of it runs."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import inspect
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precut.deadline._candidate import Halved, Measured, Rejected
from precut.deadline._grow import make_sampler
from precut.deadline._halving import keeps_going, rung_of
from precut.deadline._space import Space
from precut.errors import PrecutError

if TYPE_CHECKING:
    import optuna

__all__ = ["Plan", "counts_of", "failures_of", "open_study", "trials_of", "work"]

_HISTORY = "precut_begun_before"  # numbers under which a trial was begun by workers that are gone
_BEGUN = "worker"  # on a trial that has a heartbeat
_REAL = "precut.deadline._candidate:evaluate"


@dataclass(frozen=True)
class Plan:
    """All that a worker must know, on whatever machine it runs; JSON-able.

    Attributes:
        name: of the study.
        storage: URL of its database.
        space: choices of the search space.
        settings: for the objective.
        trials: that are to be finished (halved and rejected ones count).
        runs: folder of the candidates' runs; on several machines one that all of them reach.
        min_accuracy: see ``next_places``.
        sampler: "grow", "tpe", "nsga2" or "random".
        seed: of the draws.
        eta, rungs: of successive halving; ``rungs`` 0 trains all to the end.
        heartbeat_s, grace_s: a worker's sign of life, and the silence after which its trial is given to another.
        until: seconds since 1970 after which no trial is begun; None for never.
        objective: "module:function" that is called like ``evaluate``.
    """

    name: str
    storage: str
    space: dict[str, list[Any]]
    settings: dict[str, Any]
    trials: int
    runs: str
    min_accuracy: float = 0.0
    sampler: str = "grow"
    seed: int = 0
    eta: int = 3
    rungs: int = 1
    heartbeat_s: int = 10
    grace_s: int = 60
    until: float | None = None
    objective: str = field(default=_REAL)

    @property
    def shown_storage(self) -> str:
        """The storage's URL without its password."""
        return re.sub(r"(://[^:/@]*:)[^@/]*@", r"\1***@", self.storage)

    def identity(self) -> dict[str, Any]:
        """What must not change when a study goes on: its results would not be comparable."""
        keys = ("space", "settings", "eta", "rungs", "objective", "min_accuracy")
        kept = {key: value for key, value in asdict(self).items() if key in keys}
        machine = ("data_root", "threads")  # may differ from worker to worker
        kept["settings"] = {key: value for key, value in self.settings.items() if key not in machine}
        return json.loads(json.dumps(kept))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise PrecutError("a search needs Optuna, which is not installed: pip install 'precut[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(plan: Plan, worker: int = 0) -> optuna.Study:
    """The study, made if there is none.

    Raises:
        PrecutError: Optuna or the database's driver is missing, the database cannot be reached, or the study that it
            holds was made with other settings.
    """
    optuna = _optuna()
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    # A study is asked now and then and has no end of its own: no connection stays open between two questions.
    arguments: dict[str, Any] = {"poolclass": NullPool}
    if plan.storage.startswith("sqlite"):
        arguments["connect_args"] = {"timeout": 120}  # several processes write to one file in turns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            storage = optuna.storages.RDBStorage(
                plan.storage,
                engine_kwargs=arguments,
                heartbeat_interval=plan.heartbeat_s,
                grace_period=plan.grace_s,
                **{_stale_argument(optuna): _begin_again},
            )
            study = optuna.create_study(
                storage=storage,
                study_name=plan.name,
                directions=["minimize", "maximize"],
                load_if_exists=True,
            )
            # A study that goes on must not draw the same candidates again.
            seed = plan.seed + 1009 * len(study.get_trials(deepcopy=False))
            study.sampler = make_sampler(plan.sampler, Space(plan.space), plan.min_accuracy, seed, worker)
        except ImportError as error:
            raise PrecutError(
                f"the database {plan.shown_storage!r} needs a driver that is not installed ({error}); for PostgreSQL: "
                "pip install 'precut[postgres]'"
            ) from None
        except SQLAlchemyError as error:
            first = str(error).splitlines()[0]
            raise PrecutError(f"the database {plan.shown_storage!r} cannot be used: {first}") from None
    known = study.user_attrs.get("plan")
    if known is None:
        study.set_user_attr("plan", plan.identity())
    elif known != plan.identity():
        key = next(key for key in plan.identity() if known.get(key) != plan.identity()[key])
        raise PrecutError(
            f"study {plan.name!r} was begun with {key} {json.dumps(known.get(key))[:80]}; it cannot go on with "
            f"{json.dumps(plan.identity()[key])[:80]}: take its settings, or another --name"
        )
    return study


def counts_of(study: optuna.Study) -> dict[str, int]:
    """Trials by state: "finished", "halved", "rejected", "running", "waiting", "retried" (their worker fell silent, and
    another trial took over), "failed" (the objective raised)."""
    found = dict.fromkeys(("finished", "halved", "rejected", "running", "waiting", "retried", "failed"), 0)
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.system_attrs.get(_HISTORY, ())}
    for trial in trials:
        state = trial.state.name
        if state == "PRUNED":
            found["rejected" if "rejected" in trial.user_attrs else "halved"] += 1
        elif state == "FAIL":
            found["retried" if trial.number in again else "failed"] += 1
        else:
            found[{"COMPLETE": "finished"}.get(state, state.lower())] += 1
    return found


def failures_of(study: optuna.Study) -> list[str]:
    """What objectives raised."""
    return [trial.user_attrs["error"] for trial in study.get_trials(deepcopy=False) if "error" in trial.user_attrs]


def trials_of(study: optuna.Study) -> list[dict[str, Any]]:
    """A row for each finished trial."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "COMPLETE":
            facts = trial.user_attrs.get("facts", {})
            rows.append(
                {
                    "trial": trial.number,
                    **trial.params,
                    "seconds": trial.values[0],
                    "accuracy": trial.values[1],
                    **facts,
                }
            )
    return rows


def _objective(name: str) -> Callable[..., Measured]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise PrecutError(f"there is no objective {name!r} (module:function): {error}") from None


def _first_number(trial: Any) -> int:
    """The number under which a trial was first begun: its run folder's."""
    return int(trial.system_attrs.get(_HISTORY, [trial.number])[0])


def work(
    plan: Plan,
    worker: int = 0,
    on_trial: Callable[[Mapping[str, Any]], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Works on the study until its trials are finished or the time is over; gives how many this worker finished.

    Trials of workers that fell silent are begun again, in their old run folder, so that training goes on.

    Args:
        stopping: asked between trials and whenever one reports; once it says True the trial is handed back.

    Raises:
        KeyboardInterrupt: so stopped.
    """
    optuna = _optuna()
    study = open_study(plan, worker)
    objective = _objective(plan.objective)
    space = Space(plan.space)
    done = 0
    mine: list[int] = []
    told: list[int] = []  # those of mine whose objective ended by itself

    def run(trial: Any) -> tuple[float, float]:
        labels = {name: trial.suggest_categorical(name, space.labels(name)) for name in space.choices}
        places = space.places(labels)
        assert places is not None
        frozen = next(one for one in study.get_trials(deepcopy=False) if one.number == trial.number)
        number = _first_number(frozen)
        storage: Any = study._storage
        storage.record_heartbeat(trial._trial_id)  # the thread that does so may not have come to it yet
        trial.set_user_attr(_BEGUN, worker)
        seconds = before = 0.0
        mine.append(trial.number)

        def report(fraction: float, value: float) -> None:
            nonlocal seconds, before
            if stopping():
                raise KeyboardInterrupt
            if fraction == 0:
                seconds = value
                return
            rung = rung_of(before, fraction, plan.eta, plan.rungs)
            before = fraction
            key = f"rung {rung}"
            if rung is None or key in frozen.user_attrs:  # passed in an earlier life
                return
            trial.set_user_attr(key, [seconds, value])
            others = {  # once each: a trial that was begun again has its former life's values
                _first_number(other): tuple(other.user_attrs[key])
                for other in study.get_trials(deepcopy=False)
                if _first_number(other) != number and key in other.user_attrs
            }
            if not keeps_going((seconds, value), list(others.values()), plan.eta):
                raise Halved(f"{value:.4f} at {fraction:.2f} of the training")

        try:
            measured = objective(space.candidate(places), plan.settings, Path(plan.runs) / f"trial-{number}", report)
        except Halved as stop:
            told.append(trial.number)
            raise optuna.TrialPruned(str(stop)) from None
        except Rejected as why:
            trial.set_user_attr("rejected", str(why))
            raise optuna.TrialPruned(str(why)) from None
        except Exception as error:  # a fault of the objective: it ends this worker, and others are to know why
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise
        trial.set_user_attr("facts", measured.facts)
        told.append(trial.number)
        return measured.seconds, measured.accuracy

    while plan.until is None or time.time() < plan.until:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are "experimental" in Optuna since 2.9
            optuna.storages.fail_stale_trials(study)
            _fail_unbegun(study, plan.grace_s)
            found = counts_of(study)
            over = found["finished"] + found["halved"] + found["rejected"]
            if over >= plan.trials:
                break
            if stopping():
                raise KeyboardInterrupt
            if over + found["running"] >= plan.trials and not found["waiting"]:
                time.sleep(min(1.0, plan.heartbeat_s / 2))  # the last ones are others'; one may fall silent
                continue
            if found["failed"] > max(3, plan.trials // 4):
                causes = failures_of(study) or ["see the logs of the workers"]
                raise PrecutError(f"{found['failed']} trials of study {plan.name!r} failed; one: {causes[-1]}")
            try:
                study.optimize(run, n_trials=1, catch=(PrecutError, RuntimeError))
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # this worker stood still for so long that another has taken its trial over
            except (ValueError, AssertionError):  # or it did so just before it told what it had found
                if not (told and told[-1] == mine[-1] and _state(study, mine[-1]) == "FAIL"):
                    raise
                continue
            except KeyboardInterrupt:
                _give_back(study, mine)
                raise
        done += 1
        if on_trial is not None:
            on_trial(counts_of(study))
    return done


def _stale_argument(optuna: Any) -> str:
    """Optuna 4.9 gave the argument another name."""
    known = inspect.signature(optuna.storages.RDBStorage).parameters
    new = "heartbeat_stale_trial_callback"
    return new if new in known else "failed_trial_callback"


def _fail_unbegun(study: optuna.Study, grace_s: float) -> None:
    """Optuna takes no notice of a trial whose worker was gone before its first heartbeat: it would run for ever."""
    optuna = _optuna()
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name != "RUNNING" or _BEGUN in trial.user_attrs or trial.datetime_start is None:
            continue
        if (datetime.datetime.now() - trial.datetime_start).total_seconds() > grace_s:
            with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                _begin_again(study, trial)


def _begin_again(study: optuna.Study, trial: Any) -> None:
    """Puts a trial whose worker is gone back into the queue; its first number, and so its run folder, stays with it."""
    optuna = _optuna()
    history = [*trial.system_attrs.get(_HISTORY, ()), trial.number]
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={name: value for name, value in trial.user_attrs.items() if name.startswith("rung ")},
            system_attrs={**trial.system_attrs, _HISTORY: history},
        )
    )


def _state(study: optuna.Study, number: int) -> str:
    return str(study.get_trials(deepcopy=False)[number].state.name)


def _give_back(study: optuna.Study, mine: list[int]) -> None:
    """A worker that is stopped hands its trial on, as if it had fallen silent."""
    for trial in study.get_trials(deepcopy=False):
        if mine and trial.number == mine[-1] and trial.state.name == "FAIL":
            _begin_again(study, trial)
