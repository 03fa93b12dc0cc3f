"""What travels in an agent's saved file."""

from typing import Any

from pearl_sb3.ssl.learner import Learner


class SavedLearner:
    """
    Stands on the model as ``ssl_state``; whoever saves the model saves the learner as it is at that moment.

    It is pickled as a dict of builtin types, so that the agent loads where this package is not installed.

    :param learner: The one at work
    """

    # Without a dict of attributes, which SB3 would print into the file.
    __slots__ = ("learner",)

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (self.learner.state(),)


def saved_state(model: Any) -> dict[str, Any] | None:
    """
    :param model: An agent, just loaded or in use
    :return: The state of its learner, None if it has none
    """
    state = getattr(model, "ssl_state", None)
    return state.learner.state() if isinstance(state, SavedLearner) else state
