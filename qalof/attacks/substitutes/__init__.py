"""Offline substitutes for the external models and word lists of attacks on words (docs/methods/attacks.md).

=====================  ======================================  ==========================================
the papers'            here                                    or
=====================  ======================================  ==========================================
counter-fitted vectors neighbors in the input embeddings       a user's list (:mod:`.synonyms`)
sentence encoder (USE) mean hidden states of a language model  a folder (:mod:`.sentence_encoder`)
masked language model  left context (:mod:`.left_context`)     a folder (:mod:`.masked_words`)
part-of-speech tagger  suffixes (:mod:`.parts_of_speech`)      off
stop words (NLTK)      a list of our own (:mod:`.stop_words`)
=====================  ======================================  ==========================================

Each has a ``name`` that stands in every result: thresholds do not carry over from one to another.
"""
