"""Token ids into text, piece by piece, never half a character.

A character may be spread over tokens, with byte-level BPE as with SentencePiece's byte tokens.
Ids wait in a window until the window's text ends in a whole character, which is then given out.
"""

from .prompt import Tokenizer

HALF = "\ufffd"  # what decoders put for bytes that are not (yet) a character


class Detokenizer:
    """The text of one answer; not for use by two threads.

    The pieces joined are the decoded ids. One exception: where byte tokens are not UTF-8, some
    decoders give up the whole run of them, while here characters that were whole stay.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Starts empty."""
        self._tokenizer = tokenizer
        # Decoded behind some plain text, SentencePiece keeps the space that it drops at the start.
        self._anchor = tokenizer.encode("a", add_special_tokens=False).ids
        self._n_anchor = len(tokenizer.decode(self._anchor))
        self._window: list[int] = []
        self._started = False

    def push(self, token_id: int) -> str:
        """The text that this id completes; often a word, sometimes nothing."""
        self._window.append(token_id)
        text = self._text()
        # An empty text stays too: a lone space is dropped only where the answer starts.
        if not text or text.endswith(HALF):
            return ""
        self._window.clear()
        self._started = True
        return text

    def flush(self) -> str:
        """What is left at the end of the answer: nothing, or half a character as U+FFFD."""
        text = self._text()
        self._window.clear()
        return text

    def _text(self) -> str:
        if not self._window:
            return ""
        if not self._started:
            return self._tokenizer.decode(self._window)
        return self._tokenizer.decode(self._anchor + self._window)[self._n_anchor :]
