"""A tour of a tree that the model writes all by itself, so that an error carries on.

The prompt lists a tree in random order, ``K_p > K_c1 K_c2 ;`` per inner node and ``K V ;`` per leaf, then
``<cot> K_root``. The trace is the depth-first tour; all of it is determined and scored:

- at an inner node ``> K_c``: down to its first child;
- at a leaf ``V acc``: its value, and the running sum of values modulo 16;
- going back ``< K_c K_p``, then the next child of K_p, or ``;`` if there is none and K_p is left too;
- when the root is done ``<fin> acc``.

A parent's list is read again once per child, at a gap as long as the child's sub-tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import vocabulary as vocab
from .item import Draft, Item

_FIXED = 6
"""Tokens of a tour besides those of nodes: ``<bos> <cot> K_root``, ``<fin> acc``, and one to spare."""
_LEAF = 5
_CHILD = 5


@dataclass
class _Node:
    name: int
    value: int
    children: list[_Node] = field(default_factory=list)
    line: int = 0
    """Position of the first token of the node's line in the prompt."""


def _tree(rng: np.random.Generator, length: int) -> tuple[_Node, list[_Node]]:
    """A random tree whose tour fits into ``length`` tokens; the root, and all nodes in order of creation."""
    names = (rng.permutation(vocab.NAMES) + vocab.FIRST_NAME).tolist()
    values = rng.integers(vocab.FIRST_VALUE, vocab.FIRST_OPERATOR, size=vocab.NAMES).tolist()
    nodes = [_Node(names[0], values[0])]
    leaves = [nodes[0]]
    size = _FIXED + _LEAF
    while True:
        children = int(rng.integers(2, 4))
        size += 5 + (_CHILD + _LEAF) * children - _LEAF
        if size > length or len(nodes) + children > vocab.NAMES:
            break
        node = leaves.pop(int(rng.integers(len(leaves))))
        for _ in range(children):
            node.children.append(_Node(names[len(nodes)], values[len(nodes)]))
            nodes.append(node.children[-1])
        leaves.extend(node.children)
    if not nodes[0].children:
        raise ValueError(f"length {length} is too short for a tour")
    return nodes[0], nodes


def tour(rng: np.random.Generator, length: int) -> Item:
    """A tree with nodes of two or three children, as large as fits (at most 96 nodes), and its tour."""
    root, nodes = _tree(rng, length)
    draft = Draft("context")
    draft.say(vocab.BOS)
    for at in rng.permutation(len(nodes)).tolist():
        node = nodes[at]
        node.line = draft.say(node.name)
        if node.children:
            draft.say(vocab.DOWN, *(child.name for child in node.children), vocab.SEMICOLON)
        else:
            draft.say(node.value, vocab.SEMICOLON)
    draft.say(vocab.COT)
    entered = {root.name: draft.say(root.name)}
    mentioned = dict(entered)
    prompt_length = len(draft)
    draft.part("trace")
    total, total_at = vocab.FIRST_VALUE, -1
    # What is left to visit: (node, its parent, its index among the parent's children).
    path: list[tuple[_Node, int]] = []
    node = root
    while True:
        if node.children:
            seen = mentioned[node.name]
            draft.answer(vocab.DOWN, (node.line + 1,), last_use=seen)
            child = node.children[0]
            entered[child.name] = draft.answer(child.name, (node.line + 2,), last_use=seen)
            mentioned[child.name] = entered[child.name]
            path.append((node, 0))
            node = child
            continue
        draft.answer(node.value, (node.line + 1,), last_use=mentioned[node.name])
        total = vocab.add(total, node.value)
        total_at = draft.answer(total, *(((total_at,),) if total_at >= 0 else ()), last_use=total_at)
        while path:
            parent, index = path.pop()
            seen = mentioned[parent.name]
            # Going on up after ";" takes knowing that the node is not the root.
            draft.answer(vocab.UP, *(((entered[root.name],),) if node.children else ()))
            mentioned[node.name] = draft.answer(node.name, last_use=mentioned[node.name])
            copies = (parent.line, entered[parent.name])
            mentioned[parent.name] = draft.answer(parent.name, copies, last_use=seen)
            following = (parent.line + 3 + index,)
            if index + 1 < len(parent.children):
                node = parent.children[index + 1]
                entered[node.name] = draft.answer(node.name, following, last_use=seen)
                mentioned[node.name] = entered[node.name]
                path.append((parent, index + 1))
                break
            draft.answer(vocab.SEMICOLON, following, last_use=seen)
            node = parent
        else:
            draft.answer(vocab.FIN, (entered[root.name],), last_use=entered[root.name])
            draft.answer(total, (total_at,), last_use=total_at)
            return draft.item("tour", prompt_length)
