"""The ablation sweep: arms x seeds x base models x settings, its cells and what comparing them gives.

``specs`` is the section of the run file, ``cells`` its expansion into runs, ``comparison`` the table over items and
seeds.
"""
