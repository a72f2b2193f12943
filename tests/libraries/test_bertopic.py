"""Topics that BERTopic finds in an accelerated encoder's vectors, by UMAP and HDBSCAN as is its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from bertopic import BERTopic
from bertopic.backend._utils import select_backend
from sklearn.feature_extraction.text import CountVectorizer
from umap import UMAP

from distilrt import accelerate

SPACE = """The rocket carried two astronauts to the space station.
A telescope in orbit photographed a distant galaxy.
The probe sent back pictures of the rings of Saturn.
Astronomers discovered a planet that circles two stars.
The lunar lander touched down near the south pole of the moon.
A comet will pass close to the sun next month.
The satellite left its orbit and burned up in the atmosphere.
Engineers tested the engine of the new rocket.
The rover drills into rocks on Mars to look for water.
A black hole swallowed a star in a nearby galaxy.
The crew of the space station repaired a solar panel.
The launch of the spacecraft was delayed by strong wind."""
FOOD = """Knead the dough and let the bread rise for an hour.
Simmer the soup with garlic and onions.
The chef serves roasted lamb with rosemary potatoes.
Melt the butter and stir in the flour for the sauce.
A pinch of salt brings out the taste of chocolate.
Bake the cake until a skewer comes out clean.
Chop the tomatoes and fry them in olive oil.
This recipe needs three eggs and a cup of sugar.
Grill the fish with lemon and fresh herbs.
Boil the pasta in plenty of salted water.
She filled the pie with apples and cinnamon.
The restaurant cooks its curry with coconut milk."""
SPORT = """The striker scored in the last minute of the match.
Our team won the football league for the third time.
The referee gave the defender a red card.
The goalkeeper saved a penalty in the final.
The coach picked a young player for the national team.
The tennis champion lost the first set of the tournament.
Fans filled the stadium for the opening game.
The midfielder signed a contract with a new club.
The basketball team practised free throws all week.
The home side equalised after a corner kick.
The players celebrated the cup with their supporters.
He was substituted at half time with an injured knee."""
TEXTS = [line for theme in (SPACE, FOOD, SPORT) for line in theme.splitlines()]
NEW = {"A shuttle flew to the moon.": 0, "Fry the onions in butter.": 1, "The team scored two goals.": 2}


def topics_of(encoder: Any) -> Any:
    reduction = UMAP(n_neighbors=10, n_components=5, min_dist=0.0, metric="cosine", random_state=0)
    words = CountVectorizer(stop_words="english")
    return BERTopic(embedding_model=encoder, umap_model=reduction, vectorizer_model=words, min_topic_size=5)


def test_topics(original: Any, fast: Any, only_distilrt: Any) -> None:
    expected, _ = topics_of(original).fit_transform(TEXTS)
    with only_distilrt():
        model = topics_of(fast)
        found, _ = model.fit_transform(TEXTS)
        nearest = model.find_topics("outer space", top_n=1)[0]
        new, _ = model.transform(list(NEW))
    assert found == expected
    assert len(set(found)) == 3
    themes = [found[start : start + 12] for start in (0, 12, 24)]
    assert all(len(set(theme)) == 1 for theme in themes)
    assert nearest == [themes[0][0]]
    assert list(new) == [themes[theme][0] for theme in NEW.values()]


def test_pipeline(sentence_encoder: Path, only_distilrt: Any, assert_near: Any) -> None:
    original = transformers.pipeline("feature-extraction", str(sentence_encoder), device="cpu")
    expected = select_backend(original).embed(TEXTS[:3])
    with only_distilrt():
        backend = select_backend(accelerate(original))
        assert type(backend).__name__ == "HFTransformerBackend"
        assert_near(backend.embed(TEXTS[:3]), expected)
