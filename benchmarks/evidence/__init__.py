"""What maps are worth as evidence: of real teachers on objects whose pixel masks are known (scores), by the part of the
image that the teacher saw (view), by all that kind `cam` could have been (passes, variants), of transformers
(transformer) and of heads for one's own classes (own_classes). Pages: docs/evidence.md, docs/own-data.md.
"""
