"""KLT: transform coding of all stored blocks and channels of a patch token together, at 0.25 to 2 bits per value.

Neighbouring blocks of a ViT contain nearly the same vector. After LayerNorm, a Karhunen-Loeve transform over blocks and
channels together packs most of a token's energy into few components. Most components then need no bits at all.

Open ``view_code.py`` first, the numpy reference of encoding and decoding. ``calibration.py`` makes its parameters from
sampled views: ``allocation.py`` gives bits to components and ``quantisers.py`` has the tables. ``bit_records.py``
packs the indices of one token, or of one view's coarse part, into bytes.
"""
