"""What no arm may be trained on, from the artifacts that say so."""

from dataclasses import replace

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store
from lema_core.mixture import get_arm
from lema_core.records import Question
from lema_core.run.artifacts import QuestionRound
from lema_core.stages.mixture import Mixture, MixtureSpec


def question(name: str, seed: str | None = None) -> Question:
    return Question(id=name, task="arithmetic", text=name, gold="1", seed_question_id=seed)


def published(store: Store, stage: str, *questions: Question) -> ArtifactRef:
    identity = Identity(stage, {"of": [row.id for row in questions]}, inputs=())
    ref = ArtifactRef(stage, identity.fingerprint)
    with store.part(ref, Shard(0, 0, len(questions)), Question) as part:
        part.rows_in = len(questions)
        for row in questions:
            part.add(row)
    store.publish(identity, [part.summary], seconds=0)
    return ref


def test_what_is_evolved_from_a_held_out_question_is_held_out_too(tmp_path):
    store = Store(str(tmp_path))
    kept_back, other = question("q-kept"), question("q-other")
    own = published(store, "questions", kept_back, other)
    evolved = published(store, "evolution", question("q-new", seed="q-kept"), question("q-free", seed="q-other"))
    pool, held_out = (QuestionRound(own), QuestionRound(evolved, 1, "centric")), published(store, "held_out", kept_back)
    mixture = Mixture(MixtureSpec(), get_arm("lema"), "arithmetic", pool, held_out=held_out)
    assert mixture.rules(store).held_out == {"q-kept", "q-new"}
    assert not replace(mixture, held_out=None).rules(store).held_out
