from bayes_merger.api.asking import load_study as load_study
from bayes_merger.api.asking import open_study as open_study
from bayes_merger.api.asking import sampler as sampler
from bayes_merger.api.asking import search_space as search_space
from bayes_merger.api.merges import merge as merge
from bayes_merger.api.merges import recipe as recipe
from bayes_merger.api.merges import save_merge as save_merge
from bayes_merger.api.pictures import draw as draw
from bayes_merger.api.pictures import open_evaluator as open_evaluator
from bayes_merger.api.pictures import score as score
from bayes_merger.api.running import begin as begin
from bayes_merger.api.running import resume as resume
from bayes_merger.checkpoints.opening import open_checkpoint as open_checkpoint
from bayes_merger.merging.recipe.recipe import MergeRecipe as MergeRecipe
from bayes_merger.search.space.space import SearchSpace as SearchSpace

__version__: str
__all__: list[str]
