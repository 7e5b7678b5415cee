"""Phonemes in Kokoro's letters."""

from training.kokoro import respelt


def test_espeaks_letters_become_kokoros() -> None:
    assert respelt("ʒə- vudʁɛ\nd^ʒɔrno t^ʃao") == "ʒə vudʁɛ ʤɔrno ʧao"
    assert respelt("dobr^i") == "dobri"  # a tie between other letters goes
