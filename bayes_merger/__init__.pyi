from bayes_merger.api import merge as merge
from bayes_merger.api import open_checkpoint as open_checkpoint
from bayes_merger.api import open_study as open_study
from bayes_merger.api import save_merge as save_merge

__version__: str
__all__: list[str]
