"""The parts of the embedded model that need no weights."""

from postdiff.embedded_model.architecture import END, PAD, START, UNKNOWN, WordTokenizer, tokenizer_class

WORDS = ["apple", "noto", "red"]


def test_words_become_tokens_whatever_their_case_and_punctuation():
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer("Noto, RED-apple!")["input_ids"] == [START, 5, 6, 4, END]


def test_words_never_trained_on_share_one_token():
    assert WordTokenizer(WORDS)("noto zeppelin")["input_ids"] == [START, 5, UNKNOWN, END]


def test_tokens_decode_to_their_words():
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer.decode(tokenizer("noto red apple")["input_ids"]) == "noto red apple"


def test_a_prompt_is_padded_to_the_text_encoders_length_and_carries_its_weights():
    tokens = tokenizer_class(WORDS, 8, 16)().tokenize_with_weights("noto (red:1.5) apple")["emoji"]
    assert [token for token, _ in tokens[0]] == [START, 5, 6, 4, END, PAD, PAD, PAD]
    assert [weight for _, weight in tokens[0]][1:4] == [1.0, 1.5, 1.0]
