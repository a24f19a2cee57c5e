"""One published system per file, composed from public parts."""

from sememe.recipes.bsarec import bsarec
from sememe.recipes.esasrec import esasrec
from sememe.recipes.item_knn import item_knn
from sememe.recipes.itemwise import itemwise
from sememe.recipes.itemwise_aligned import itemwise_aligned
from sememe.recipes.onerec import onerec
from sememe.recipes.onerec_v2 import onerec_v2
from sememe.recipes.popularity import popularity
from sememe.recipes.repeat_last import repeat_last
from sememe.recipes.sasrec import sasrec
from sememe.recipes.tiger import tiger
from sememe.recipes.tiger_collab import tiger_collab

__all__ = [
    "bsarec",
    "esasrec",
    "item_knn",
    "itemwise",
    "itemwise_aligned",
    "onerec",
    "onerec_v2",
    "popularity",
    "repeat_last",
    "sasrec",
    "tiger",
    "tiger_collab",
]
