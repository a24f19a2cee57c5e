"""Prices of clusters at which about equally many vectors prefer each.

Source: Sinkhorn, then Newton on few cells, as Tang et al. 2024 (arXiv 2401.12253).  The prices solve the dual of
entropy-regularised transport (Cuturi 2013, arXiv 1306.0895).  Kept: Sinkhorn's scaling until the prices are rough, then
Newton's method with conjugate gradients on the cells that count.
Changed: Sinkhorn sees a part of the rows, since what it misses Newton makes up for; the temperature falls from stage to
stage, and with it how near to a row's best a cell has to be; a step that makes the dual worse is damped more, not
shortened.  Where Newton finds no way, Sinkhorn goes all the way.

Shape legend: m rows, K clusters, z cells (row, cluster) near the row's best one.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, cg

from sememe.core.schema import FloatArray, Int32Array, Int64Array

ROUGH_ROWS_PER_CLUSTER = 8
ROUGH_STRIDE = 8
"""Every 8th row has a say in rough prices, or as many as make 8 per cluster if that is more."""
ROUGH_STAGES = 2
MOST_SCANS = 12
"""For near cells, each with Newton's steps after it."""
SURPLUS_SHARE = 1 / 200
"""The last scan is the one after which no more vectors than this, and one per cluster, would be in the wrong place."""
NEWTON_STEPS = 10
"""After one scan, at most."""
UNEVEN, UNEVEN_STAGE = 0.01, 0.05
"""Masses that differ from equal ones by such a share on the average need no more steps; no more scans at a temperature.
"""
STUCK = 0.9
"""Newton goes on while the masses after a scan's steps are uneven by less than such a share of what they were."""
FIRST_TEMPERATURE = 0.2
"""Of the first stage, in units of how much nearer the nearest cluster is than the mean one; a third at each next."""
NEAR = 0.3
"""How far behind its row's best a cell may be to count at Newton's first stage, in the same units; half at each next.
Wider than the prices will move."""
NEAR_CELLS = 1 << 23
"""About so many near cells at most, some 200 MiB with what is computed on them; else those of every so many-th row."""
BLOCK_CELLS = 1 << 19
"""Cells looked at at once: 2 MiB of float32, which stay in the cache."""
DAMPING, MOST_DAMPING = 3e-3, 10.0
"""Of Newton's step, as a share of what a cluster should hold: clusters that few rows are near to have no slope."""
LEAST_LEAD = 1e-30
"""Below it float32 has no temperatures; clusters that are so near each other need no prices."""
LONGEST_STEP = 4.0
"""Of Newton, in temperatures: the exponentials say little of what lies farther off."""


@dataclass(frozen=True, eq=False)
class _Near:
    """The cells that count, row by row; each row has its best at least."""

    behind: FloatArray
    """(z,) affinity and price less those of the row's best: at most 0."""
    clusters: Int32Array
    """(z,)"""
    starts: Int32Array
    """(m + 1,) where each row's cells begin, as in a CSR matrix."""
    width: np.float32
    """How far behind they are at most."""

    def surplus(self, moved: FloatArray, weights: FloatArray) -> float:
        """How many vectors would have to go elsewhere if all went to their best, prices having moved by (K,)."""
        value = self.behind + moved[self.clusters]
        best = np.repeat(np.maximum.reduceat(value, self.starts[:-1]), np.diff(self.starts))
        demand = np.bincount(self.clusters, weights=(value == best) * np.repeat(weights, np.diff(self.starts)))
        return float(np.maximum(demand - weights.sum() / len(moved), 0).sum())


def transport_prices(affinity: FloatArray, counts: Int64Array) -> FloatArray:
    """(K,) what to add to each column of float32 (m, K), so that about equally many rows find their best in each.

    Rows stand for `counts` (m,) vectors each.  Zero where there are fewer vectors than clusters: no cluster has to be
    filled then.
    """
    num_rows, num_clusters = affinity.shape
    prices = np.zeros(num_clusters, np.float32)
    if counts.sum() < num_clusters:
        return prices
    stride = max(1, min(num_rows // (ROUGH_ROWS_PER_CLUSTER * num_clusters), ROUGH_STRIDE))
    sample = affinity[::stride]
    lead = float(np.mean(sample.max(axis=1) - sample.mean(axis=1)))
    if not lead > LEAST_LEAD:
        return prices
    rough = _sinkhorn(sample, counts[::stride].astype(np.float32), lead=lead, stages=ROUGH_STAGES, iterations=8)
    stride = 1
    if affinity.size > NEAR_CELLS:
        # The sample says how many cells are near; counting those of a large catalogue takes the memory to be saved.
        found = len(_near_cells(sample, rough, width=NEAR * lead).clusters)
        stride = max(1, round(found / len(sample) * num_rows / NEAR_CELLS))
    fine = _fine_prices(affinity[::stride], counts[::stride].astype(np.float32), rough=rough, lead=lead)
    if fine is None:
        fine = _sinkhorn(affinity, counts.astype(np.float32), lead=lead, stages=5, iterations=20)
    return fine


def _fine_prices(affinity: FloatArray, weights: FloatArray, *, rough: FloatArray, lead: float) -> FloatArray | None:
    """Newton's method at falling temperatures, further down where vectors lie in clumps that flip as one.

    None where it finds no way: some clusters are far from all rows.
    """
    prices, stage = rough.copy(), 0
    total = float(weights.sum())
    # A row that stands for more vectors than a cluster holds has to be shared out at any prices.
    enough = SURPLUS_SHARE * total + len(prices) + float(np.maximum(weights - total / len(prices), 0).sum())
    for _ in range(MOST_SCANS):
        near = _near_cells(affinity, prices, width=NEAR * lead / 2**stage)
        temperature = _temperature(ROUGH_STAGES + stage, lead=lead)
        start = _look(near, weights, moved=np.zeros_like(prices), temperature=temperature)
        found = _newton(near, weights, start=start)
        if found.unevenness > max(STUCK * start.unevenness, UNEVEN_STAGE):
            return None
        prices += found.moved
        if near.surplus(found.moved, weights) <= enough:
            break
        # Masses stay uneven where clusters lack near cells; new ones are found before the temperature falls.
        stage += found.unevenness <= UNEVEN_STAGE
    return prices


def _temperature(stage: int, *, lead: float) -> np.float32:
    return np.float32(FIRST_TEMPERATURE * lead / 3**stage)


def _sinkhorn(affinity: FloatArray, weights: FloatArray, *, lead: float, stages: int, iterations: int) -> FloatArray:
    """Sinkhorn's scaling at falling temperatures; after each stage the scales move into the prices: no underflow."""
    prices = np.zeros(affinity.shape[1], np.float32)
    share = weights.sum() / np.float32(len(prices))
    for stage in range(stages):
        temperature = _temperature(stage, lead=lead)
        kernel = affinity + prices
        kernel -= kernel.max(axis=1, keepdims=True)
        kernel /= temperature
        np.exp(kernel, out=kernel)
        scale = np.ones(len(prices), np.float32)
        for _ in range(iterations):
            mass = (weights / (kernel @ scale)) @ kernel
            # A bounded step keeps float32 from overflowing; the next stage goes on from there.
            scale = np.clip(share / np.maximum(mass, np.float32(1e-30)), np.float32(1e-20), np.float32(1e20))
        prices += temperature * np.log(scale)
    return prices


def _near_cells(affinity: FloatArray, prices: FloatArray, *, width: float) -> _Near:
    """The cells of (m, K) at most `width` behind their row's best at these prices."""
    step = max(1, BLOCK_CELLS // len(prices))
    parts, clusters, counts = [], [], []
    for start in range(0, len(affinity), step):
        value = affinity[start : start + step] + prices
        best = value.max(axis=1)
        place = np.flatnonzero(value >= (best - np.float32(width))[:, None])
        row, cluster = np.divmod(place, len(prices))
        parts.append(value.ravel()[place] - best[row])
        clusters.append(cluster.astype(np.int32))
        counts.append(np.bincount(row, minlength=len(value)))
    return _Near(np.concatenate(parts), np.concatenate(clusters), _starts(np.concatenate(counts)), np.float32(width))


def _starts(counts: Int32Array | Int64Array) -> Int32Array:
    return np.append(0, np.cumsum(counts)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class _Point:
    """The smoothed dual at one point."""

    moved: FloatArray
    """(K,) how far the prices have moved since the near cells were found."""
    temperature: np.float32
    value: float
    """What is to be made small."""
    kernel: sp.csr_matrix
    """(m, K) how much each cell draws."""
    totals: FloatArray
    """(m,) the kernel's rows summed up."""
    masses: FloatArray
    """(K,) of all rows shared out by what draws them."""

    @property
    def unevenness(self) -> float:
        """How far a cluster's mass is from the mean one, in units of that one, on the average."""
        return float(np.abs(self.masses / self.masses.mean() - 1).mean())


def _look(near: _Near, weights: FloatArray, *, moved: FloatArray, temperature: np.float32) -> _Point:
    # The bounded steps of one stage keep these far from float32's ends; no row has to be scaled by its best anew.
    draws = np.exp((near.behind + moved[near.clusters]) / temperature)
    kernel = sp.csr_matrix((draws, near.clusters, near.starts), shape=(len(weights), len(moved)))
    totals = kernel @ np.ones(len(moved), np.float32)
    even = weights.sum() / np.float32(len(moved))
    value = float(temperature * (weights @ np.log(totals).astype(np.float64)) - even * moved.sum(dtype=np.float64))
    return _Point(moved, temperature, value, kernel, totals, kernel.T @ (weights / totals))


def _newton(near: _Near, weights: FloatArray, *, start: _Point) -> _Point:
    """Where all clusters' masses are about equal at the temperature of `start`, or as near as some steps lead."""
    point, damping = start, DAMPING
    for _ in range(NEWTON_STEPS):
        if point.unevenness <= UNEVEN or damping > MOST_DAMPING:
            break
        step = point.temperature * _newton_step(point, weights, damping=damping)
        # Farther, cells would count that were not near enough to be looked at.
        moved = np.clip(point.moved + step, -near.width, near.width)
        trial = _look(near, weights, moved=moved, temperature=point.temperature)
        if trial.value < point.value:
            point, damping = trial, max(damping / 4, DAMPING)
        else:
            damping *= 16
    return point


def _newton_step(point: _Point, weights: FloatArray, *, damping: float) -> FloatArray:
    """(K,) in temperatures: the way to equal masses as far as their slopes tell; damped, it is shorter and surer."""
    turned, rates = point.kernel.T, weights / point.totals
    even = point.masses.mean()
    diagonal = point.masses + np.float32(damping) * even

    def slopes(step: FloatArray) -> FloatArray:
        # Where row i is shared out as s_i, mass k moves with price l by mass_k [k = l] - sum_i weight_i s_ik s_il.
        answer: FloatArray = diagonal * step - turned @ (rates * ((point.kernel @ step) / point.totals))
        return answer

    operator = LinearOperator((len(diagonal), len(diagonal)), matvec=slopes, dtype=np.float32)
    step, _ = cg(operator, even - point.masses, rtol=0.3, maxiter=40)
    return np.clip(step, -LONGEST_STEP, LONGEST_STEP).astype(np.float32)
