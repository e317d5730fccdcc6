"""The lowest value of any function, in few trials: `from mingpt.tuning import Float, Int, Choice, minimize`."""

from mingpt.tuning.parameters import Choice, Float, Int
from mingpt.tuning.space import Space
from mingpt.tuning.study import Study, minimize
from mingpt.tuning.trial import Trial

__all__ = ["Choice", "Float", "Int", "Space", "Study", "Trial", "minimize"]
