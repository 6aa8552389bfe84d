"""Deadlines: the most accurate answer that is ready in time.

From measured operating points (``profile``) to those worth keeping (``Frontier``), to the choice at run time
(``Selector``), judged on recorded or made traces (``replay``).
"""

from precut.deadline._candidate import check_settings as check_settings
from precut.deadline._decision import Decision as Decision
from precut.deadline._decision import InfeasibleError as InfeasibleError
from precut.deadline._executor import Executor as Executor
from precut.deadline._frontier import Frontier as Frontier
from precut.deadline._generate import arrivals as arrivals
from precut.deadline._generate import loads as loads
from precut.deadline._generate import make_trace as make_trace
from precut.deadline._ledger import SelectorStats as SelectorStats
from precut.deadline._mcnemar import mcnemar as mcnemar
from precut.deadline._metrics import Outcome as Outcome
from precut.deadline._metrics import Replay as Replay
from precut.deadline._oracles import best_mixture as best_mixture
from precut.deadline._point import Point as Point
from precut.deadline._point import samples_for as samples_for
from precut.deadline._policies import Ewma as Ewma
from precut.deadline._policies import Fixed as Fixed
from precut.deadline._policies import LayerSkip as LayerSkip
from precut.deadline._policies import MeanTime as MeanTime
from precut.deadline._policies import Policy as Policy
from precut.deadline._policies import World as World
from precut.deadline._policies import policies as policies
from precut.deadline._profile import Profile as Profile
from precut.deadline._profile import profile as profile
from precut.deadline._quantiles import needed_samples as needed_samples
from precut.deadline._quantiles import quantile as quantile
from precut.deadline._quantiles import upper_bound as upper_bound
from precut.deadline._quantiles import upper_rank as upper_rank
from precut.deadline._quantiles import wilson_interval as wilson_interval
from precut.deadline._record import LOADS as LOADS
from precut.deadline._record import record as record
from precut.deadline._replay import replay as replay
from precut.deadline._requests import Answer as Answer
from precut.deadline._requests import Event as Event
from precut.deadline._requests import Record as Record
from precut.deadline._search import SearchResult as SearchResult
from precut.deadline._search import search as search
from precut.deadline._search import storage_url as storage_url
from precut.deadline._selector import Selector as Selector
from precut.deadline._space import DEFAULT_SPACE as DEFAULT_SPACE
from precut.deadline._space import Space as Space
from precut.deadline._stress import Stressors as Stressors
from precut.deadline._study import Plan as Plan
from precut.deadline._target import Target as Target
from precut.deadline._target import load_targets as load_targets
from precut.deadline._target import served as served
from precut.deadline._trace import Trace as Trace
