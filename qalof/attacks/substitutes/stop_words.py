"""Words that carry no meaning of their own, which attacks on words leave alone: a list of our own, lower case."""

NAME = "QaLoF's stop words"

_TEXT = """
a an the this that these those such same other another each every either neither both all any some none no not nor only
own few more most much many less least several enough
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves one oneself who whom whose which what whoever whatever whichever
someone somebody something anyone anybody anything everyone everybody everything nobody nothing
am is are was were be been being do does did doing done have has had having can could may might must shall should will
would ought need dare
and or but if because as until while although though unless since than whether so yet
of at by for with without about against between among into through during before after above below to from up down in
out on off over under upon within along across behind beyond near toward towards onto per via except despite
again further then once here there when where why how too very just also even ever never now still already else
i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd we're we've we'll we'd
they're they've they'll they'd that's that'll there's here's who's what's where's when's why's how's let's
isn't aren't wasn't weren't don't doesn't didn't hasn't haven't hadn't can't cannot couldn't mightn't mustn't needn't
shan't shouldn't won't wouldn't ain't
s t d m o y re ve ll ma
"""

STOP_WORDS = frozenset(_TEXT.split())


def is_stop_word(word: str) -> bool:
    """Return whether ``word`` is a stop word, whatever its capitals and apostrophes."""
    return word.lower().replace("\u2019", "'") in STOP_WORDS
