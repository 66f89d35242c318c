"""Whether two scores rank the sites alike: Spearman's rank correlation across sites, per role and choice."""

from __future__ import annotations

from scipy.stats import spearmanr

from search.scores.table import ScoreTable


def rank_correlation(first: ScoreTable, second: ScoreTable) -> list[tuple[str, str, float | None]]:
    """Return (role, choice, Spearman's rho across sites) for all that both tables have.

    The third entry is None where fewer than three sites are scored, or a score is the same at all of them.
    """
    found: list[tuple[str, str, float | None]] = []
    for role, sites in first.values.items():
        others = second.values.get(role, {})
        for choice in first.choices(role):
            both = [site for site in sites if choice in sites[site] and choice in others.get(site, {})]
            pair = [sites[site][choice] for site in both], [others[site][choice] for site in both]
            constant = any(len(set(values)) < 2 for values in pair)
            known = None if len(both) < 3 or constant else float(spearmanr(*pair).statistic)
            found.append((role, choice, known))
    return found
