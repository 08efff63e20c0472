"""KLT: transform coding of all stored blocks and channels of a patch token together, at 0.25 to 2 bits per value.

Neighbouring blocks of a ViT contain nearly the same vector. After LayerNorm, a Karhunen-Loeve transform over blocks and
channels together packs most of a token's energy into few components. Most components then need no bits at all.

``calibration`` turns sampled views into a ``ViewCode``, with the bits that ``allocation`` gives to each component and
the tables of ``quantisers``. ``view_code`` is the numpy reference of encoding and decoding; ``bit_records`` packs the
indices of one token, or of one view's coarse part, into bytes. Open ``view_code`` first.
"""
