"""The kinds of matches and verdicts that the model has."""

from capture.model import ruleset


def kinds_of(base: type) -> set[type]:
    """Return the kinds of Match or Verdict; a class with kinds below it is none, and says what they have in common.

    Goto is what an UnknownVerdict comes to.
    """
    every = {each for each in vars(ruleset).values() if isinstance(each, type)} - {ruleset.Goto}
    classes = [each for each in every if issubclass(each, base)]
    return {each for each in classes if not any(other is not each and issubclass(other, each) for other in classes)}
