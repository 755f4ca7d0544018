"""The prefix cache: pages found again by their content (design idea 6).

Along a context lie *nodes*: the end of each page and of each segment. A node's key is a chained SHA-256 over everything before it:
scope, model, then for each run of rows its kind, its tokens or its picture's digest, and its rope position. Two contexts with the same
key have the same keys and values in their pages, whoever filled them and whichever guidance branch they serve.

    rows    | BOS 11 12 EOS | BOI patches EOI            | BOS 13 …
    nodes           ^page   ^segment     ^page      ^segment    ^page

A context may go on from a page's end inside a text or from a segment's end; inside a picture it cannot, since its rows see each other.
An answer ends somewhere in a page: its *tail* is kept with the node before it, and the next turn goes on after the last token they share.
What a step is about to fill is *claimed*, so that equal prompts that arrive together are computed once; once the step is done the claim
becomes an entry. What is claimed is kept as it is from then on, since a step that runs ahead may adopt the page, or have it, before the
claim is settled. Pages that nobody owns stay, and the least recently used give way (`pages`), with all claims to them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from server.engine.context import Context, Node
from server.engine.pages import PagePool
from server.engine.segments import ContextSegment, DroppedImage, PictureSegment, TextTokens, VaeImage, VitImage


@dataclass(frozen=True, slots=True)
class Held:
    """What a context holds or is to hold: closed segments, then the first tokens of an open text. Only one ``scope`` shares it."""

    scope: str
    segments: list[ContextSegment]
    open_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A node that a step is about to reach: the rows of ``page`` up to it will then be good."""

    key: bytes
    page: int


@dataclass(frozen=True, slots=True)
class Tail:
    """The text tokens that ``page`` holds after a node."""

    token_ids: tuple[int, ...]
    page: int


class PrefixCache:
    """Which node's rows lie in which page."""

    def __init__(self, pool: PagePool, model_id: str, *, is_enabled: bool = True) -> None:
        self._pool = pool
        self._model_id = model_id.encode()
        self._is_enabled = is_enabled
        self._page_of: dict[bytes, int] = {}
        self._keys_of: dict[int, list[bytes]] = {}
        self._tails: dict[bytes, Tail] = {}
        self._tail_keys: dict[int, bytes] = {}
        self._claimed_by: dict[bytes, int] = {}
        self._claims_to: dict[int, list[Claim]] = {}
        pool.on_evict(self._forget)

    def __len__(self) -> int:
        return len(self._page_of)

    def extend(self, context: Context, held: Held, sequence_id: int) -> list[Claim]:
        """Claim the nodes that ``context``, just advanced, will have reached after this step."""
        if not self._is_enabled:
            return []
        claims = []
        for node in self._walk(context, held):
            if node.kv_len > context.kv_len:
                break
            context.pass_node(node)
            index, last_row = divmod(node.kv_len - 1, self._pool.page_size)
            page = context.pages[index]
            claims.append(Claim(node.key, page))
            self._claims_to.setdefault(page, []).append(claims[-1])
            self._pool.keep(page, last_row + 1)
            self._claimed_by.setdefault(node.key, sequence_id)
        return claims

    def settle(self, claims: list[Claim], *, are_filled: bool) -> None:
        """End claims after their step: with ``are_filled`` as entries, else (the step failed) as if they had never been."""
        for claim in claims:
            self._claimed_by.pop(claim.key, None)
            stands = self._withdraw(claim)
            if are_filled and stands and claim.key not in self._page_of:
                self._page_of[claim.key] = claim.page
                self._keys_of.setdefault(claim.page, []).append(claim.key)

    def _withdraw(self, claim: Claim) -> bool:
        """Take a claim off its page; return whether the page has been kept for it all the while."""
        claims = self._claims_to.get(claim.page, [])
        others = [other for other in claims if other is not claim]
        if others:
            self._claims_to[claim.page] = others
        else:
            self._claims_to.pop(claim.page, None)
        return len(others) < len(claims)

    def adopt(self, context: Context, held: Held, max_rows: int) -> int:
        """Let ``context`` take over what others have filled, up to ``max_rows`` rows; return how many rows that brought."""
        before = context.kv_len
        if self._is_at_node(context):
            self._adopt_nodes(context, held, max_rows)
            self._adopt_tail(context, held, max_rows)
        return context.kv_len - before

    def _adopt_nodes(self, context: Context, held: Held, max_rows: int) -> None:
        passed: list[Node] = []
        pages: list[int] = []
        best: tuple[int, list[int]] = (0, [])
        for node in self._walk(context, held):
            page = self._page_of.get(node.key)
            if node.kv_len > max_rows:
                break
            passed.append(node)
            is_page_end = node.kv_len % self._pool.page_size == 0
            if page is not None and node.is_resumable:
                best = (len(passed), [*pages, page])
            if is_page_end:
                if page is None:
                    break
                pages.append(page)
        if best[0]:
            context.adopt(self._pool, best[1], passed[: best[0]], held.segments)

    def _adopt_tail(self, context: Context, held: Held, max_rows: int) -> None:
        """Go on into the page that an answer ended in, as far as its tokens are ours, from the same position."""
        node = context.nodes[-1] if context.nodes else None
        tail = self._tails.get(node.key) if node is not None and node.rope_pos == context.rope_pos else None
        if tail is None:
            return
        shared = 0
        for ours, theirs in zip(_rest_of_text(context, held), tail.token_ids, strict=False):
            if ours != theirs or context.kv_len + shared == max_rows:
                break
            shared += 1
        if shared:
            context.adopt_page(self._pool, tail.page, shared)

    def keep_tail(self, context: Context, held: Held) -> None:
        """Keep what an answer that ends in an open text has written since its last node."""
        if not self._is_enabled or not context.nodes or self._is_at_node(context):
            return
        node = context.nodes[-1]
        token_ids = held.open_ids[node.open_rows : context.open_rows]
        page, last_row = context.pages[node.kv_len // self._pool.page_size], (context.kv_len - 1) % self._pool.page_size
        self._forget_tail(self._tails.get(node.key))
        self._forget_tail(self._tails.get(self._tail_keys.get(page, b"")))
        self._pool.keep(page, last_row + 1)
        self._tails[node.key] = Tail(token_ids, page)
        self._tail_keys[page] = node.key

    def is_under_way(self, context: Context, held: Held, sequence_id: int) -> bool:
        """Tell whether another sequence's step is just now filling what ``context`` needs next."""
        if not self._claimed_by or not self._is_at_node(context):
            return False
        node = next(self._walk(context, held), None)
        return node is not None and self._claimed_by.get(node.key, sequence_id) != sequence_id

    def is_page_end(self, context: Context) -> bool:
        """Tell whether ``context`` has just filled a page that could be found again."""
        return self._is_enabled and context.kv_len % self._pool.page_size == 0

    def _is_at_node(self, context: Context) -> bool:
        return self._is_enabled and context.kv_len == (context.nodes[-1].kv_len if context.nodes else 0)

    def _forget(self, page: int) -> None:
        for key in self._keys_of.pop(page, []):
            del self._page_of[key]
        self._claims_to.pop(page, None)
        if page in self._tail_keys:
            self._forget_tail(self._tails[self._tail_keys[page]])

    def _forget_tail(self, tail: Tail | None) -> None:
        if tail is not None:
            del self._tails[self._tail_keys.pop(tail.page)]

    def _walk(self, context: Context, held: Held) -> Iterator[Node]:
        """Yield the nodes after the latest one of ``context``, as far as ``held`` goes."""
        node = context.nodes[-1] if context.nodes else Node(_hash(self._model_id, hashlib.sha256(held.scope.encode()).digest()))
        page_size = self._pool.page_size
        position = node.rope_pos
        for index in range(node.num_segments, len(held.segments)):
            segment = held.segments[index]
            if isinstance(segment, DroppedImage):
                position += segment.num_positions
                continue
            offset = node.open_rows
            while offset < segment.num_rows:
                num_rows = min(segment.num_rows - offset, page_size - node.kv_len % page_size)
                key = _run_key(node.key, segment, offset, num_rows, position)
                offset += num_rows
                is_end = offset == segment.num_rows
                if isinstance(segment, TextTokens):
                    position += num_rows
                elif is_end:
                    position += segment.num_positions
                is_resumable = is_end or isinstance(segment, TextTokens)
                place = (index + 1, 0) if is_end else (index, offset)
                node = Node(key, node.kv_len + num_rows, position, *place, is_resumable)
                yield node
        yield from self._walk_open(node, position, held)

    def _walk_open(self, node: Node, position: int, held: Held) -> Iterator[Node]:
        """Yield the page ends inside an open text; its own end will move."""
        offset = node.open_rows
        page_size = self._pool.page_size
        while True:
            num_rows = page_size - node.kv_len % page_size
            token_ids = held.open_ids[offset : offset + num_rows]
            if len(token_ids) < num_rows:
                return
            key = _text_key(node.key, position, token_ids)
            offset, position = offset + num_rows, position + num_rows
            node = Node(key, node.kv_len + num_rows, position, len(held.segments), offset)
            yield node


def _rest_of_text(context: Context, held: Held) -> tuple[int, ...]:
    """Return the tokens to come of the text that ``context`` stands in or before, but for the one that closes it."""
    index = len(context.marks)
    if index == len(held.segments):
        return held.open_ids[context.open_rows :]
    segment = held.segments[index]
    return segment.token_ids[context.open_rows : -1] if isinstance(segment, TextTokens) else ()


def _run_key(parent: bytes, segment: TextTokens | PictureSegment, offset: int, num_rows: int, position: int) -> bytes:
    match segment:
        case TextTokens():
            return _text_key(parent, position, segment.token_ids[offset : offset + num_rows])
        case VitImage():
            kind = b"vit"
        case VaeImage():
            kind = b"vae"
    assert segment.digest, "a picture in a history has a digest"
    return _hash(parent, kind, array("q", (position, offset, num_rows)).tobytes(), segment.digest)


def _text_key(parent: bytes, position: int, token_ids: tuple[int, ...]) -> bytes:
    return _hash(parent, b"txt", array("q", (position, *token_ids)).tobytes())


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()
