"""The stages of a run, a module each: its section of the run file, what names its artifact, its requests, its work.

``lema_core.pipeline`` puts them into the paper's order. Nothing here knows Prefect: ``tasks`` runs what is here.
"""
