"""How this folder was made.

`python make.py` beside libpecos 1.2.8 (make peers). A tiny training set, libpecos'
model of it, and the scores of its first six rows by every post-processor.
"""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
from pecos.xmc import Indexer, LabelEmbeddingFactory, PostProcessor
from pecos.xmc.xlinear.model import XLinearModel

here, rng = Path(__file__).parent, np.random.default_rng(0)
label = rng.integers(0, 24, (120, 2))
Y = sp.csr_matrix(
    (np.ones(240), (np.repeat(np.arange(120), 2), label.ravel())),
    shape=(120, 24),
    dtype=np.float32,
)
Y.data[:] = 1
centre = (rng.random((24, 18)) < 0.2) * rng.random((24, 18))
X = sp.csr_matrix(
    ((Y @ centre) + (rng.random((120, 18)) < 0.1) * 0.5)
    * (rng.random((120, 18)) < 0.9),
    dtype=np.float32,
)
Z = LabelEmbeddingFactory.create(Y.tocsc(), X, method="pifa")
chain = Indexer.gen(
    Z,
    indexer_type="hierarchicalkmeans",
    nr_splits=2,
    max_leaf_size=6,
    threads=1,
    seed=0,
)
XLinearModel.train(
    X,
    Y.tocsc(),
    C=chain,
    threads=1,
    pred_kwargs=dict(beam_size=2, only_topk=24, post_processor="l3-hinge"),
).save(str(here))
model, queries = XLinearModel.load(str(here), is_predict_only=True), X[:6]
for name, A in dict(X=X, Y=Y).items():
    sp.save_npz(here / f"{name}.npz", A)
scores = {
    f"{post} {beam}": (
        model.predict(
            queries, post_processor=post, beam_size=beam, only_topk=24, threads=1
        ).toarray()
    )
    for post in PostProcessor.valid_list()
    for beam in (2, 8)
}
np.savez_compressed(here / "scores.npz", **scores)
print(len(chain), [C.shape for C in chain], sorted(scores)[:3])
