"""Token ids of the vocabulary, the same for every model size.

| ids            | tokens                                                            |
|----------------|-------------------------------------------------------------------|
| 0, 1, 2, 3     | `<s>`, `<pad>`, `</s>`, `<unk>`                                   |
| 4 .. 50263     | byte-level BPE pieces (a smaller vocabulary leaves ids unused)    |
| 50264          | `<mask>`                                                          |
| 50265 .. 58456 | `<code_0>` .. `<code_8191>`: image codes                          |
| 58457 .. 59456 | `<bin_0>` .. `<bin_999>`: quantised coordinates                   |
"""

BOS = 0
PAD = 1
EOS = 2
UNK = 3
MASK = 50264

CODE_OFFSET = 50265
N_CODES = 8192

BIN_OFFSET = CODE_OFFSET + N_CODES
N_BINS = 1000

VOCABULARY_SIZE = BIN_OFFSET + N_BINS

BINS = (BIN_OFFSET, VOCABULARY_SIZE)
"""Half-open range of the ids of box coordinates."""
