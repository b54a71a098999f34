/* model_mock.c: built-in models that classify by keywords.
 *
 * Owns only constant tables. Any thread enters. Invariant: the result depends on the text alone,
 * never on the locale or the time.
 */
#include "model_mock.h"

#include <strings.h>

typedef struct label {
  const char *name;
  const char *keywords; /* lower case, separated by one space; a plural counts too */
} label;

typedef struct classifier {
  const label *labels;
  size_t count;
  const char *fallback; /* when no keyword occurs */
  bool tie_falls_back;  /* else the label that stands first wins a tie */
} classifier;

static const label sentiments[] = {
    {"positive", "good great excellent amazing awesome best love loved lovely like liked happy "
                 "nice fast easy perfect recommend recommended reliable wonderful works thank"},
    {"negative", "bad terrible awful horrible worst hate hated slow broken bug crash crashes "
                 "crashed fail failed failure error useless poor sad angry annoying disappointed "
                 "disappointing problem refund wrong never"},
};

static const label topics[] = {
    {"library", "library libraries lib binding module api sdk shared header framework runtime"},
    {"tool", "tool utility utilities command cli program converter editor viewer generator "
             "compiler"},
    {"daemon", "daemon server service systemd background listener scheduler proxy"},
    {"font", "font typeface glyph truetype opentype serif monospace"},
    {"game", "game puzzle arcade player chess shooter adventure multiplayer"},
    {"documentation", "documentation manual doc guide tutorial reference handbook howto faq"},
};

static const classifier sentiment = {sentiments, sizeof sentiments / sizeof *sentiments, "neutral",
                                     true};
static const classifier topic = {topics, sizeof topics / sizeof *topics, "other", false};

enum { LABELS_MAX = 8, SUMMARY_WORDS = 12 };

/* Words --------------------------------------------------------------------------------------- */

typedef struct words {
  const char *at, *end;
  bool (*inside)(char c);
} words;

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80) != 0;
}

static bool is_ink(char c) {
  return c != ' ' && (c < '\t' || c > '\r');
}

static bool next_word(words *w, weft_json_span *word) {
  while (w->at < w->end && !w->inside(*w->at))
    w->at++;
  const char *start = w->at;
  while (w->at < w->end && w->inside(*w->at))
    w->at++;
  *word = (weft_json_span){start, (size_t)(w->at - start)};
  return word->size > 0;
}

/* Classification ------------------------------------------------------------------------------ */

static bool is_keyword(const char *keywords, weft_json_span word) {
  words w = {keywords, keywords + strlen(keywords), is_letter};
  for (weft_json_span keyword; next_word(&w, &keyword);) {
    bool plural = word.size == keyword.size + 1 && (word.text[keyword.size] | 0x20) == 's';
    if ((word.size == keyword.size || plural) &&
        strncasecmp(word.text, keyword.text, keyword.size) == 0)
      return true;
  }
  return false;
}

static size_t count_hits(const classifier *by, words w, size_t hits[LABELS_MAX]) {
  size_t total = 0;
  for (weft_json_span word; next_word(&w, &word);)
    for (size_t i = 0; i < by->count; i++)
      if (is_keyword(by->labels[i].keywords, word)) {
        hits[i]++;
        total++;
      }
  return total;
}

static void classify(const classifier *by, const char *text, size_t size, weft_json_writer *out) {
  size_t hits[LABELS_MAX] = {0}, best = 0;
  size_t total = count_hits(by, (words){text, text + size, is_letter}, hits);
  bool tie = false;
  for (size_t i = 1; i < by->count; i++) {
    tie = hits[i] == hits[best] || (tie && hits[i] < hits[best]);
    if (hits[i] > hits[best])
      best = i;
  }
  bool found = hits[best] > 0 && !(tie && by->tie_falls_back);
  size_t sure = hits[best] < 4 ? hits[best] : 4;
  weft_json_put(out, "{\"label\":\"");
  weft_json_put(out, found ? by->labels[best].name : by->fallback);
  weft_json_put(out, "\",\"score\":0.");
  weft_json_put_number(out, found ? 50 + 45 * hits[best] / total + sure : 50);
  weft_json_put(out, "}");
}

static void summarize(const char *text, size_t size, weft_json_writer *out) {
  weft_buf summary;
  weft_buf_init(&summary, 0);
  weft_json_writer writer = {&summary, out->rc};
  words w = {text, text + size, is_ink};
  weft_json_span word;
  for (int i = 0; i < SUMMARY_WORDS && next_word(&w, &word); i++) {
    weft_json_put(&writer, i ? " " : "");
    weft_json_put_bytes(&writer, word.text, word.size);
  }
  weft_json_put(out, "{\"summary\":");
  weft_json_put_string(out, (const char *)summary.data, summary.size);
  weft_json_put(out, "}");
  if (out->rc == WEFT_BUF_OK)
    out->rc = writer.rc;
  weft_buf_free(&summary);
}

bool weft_model_mock(const char *model, const char *text, size_t size, weft_json_writer *out) {
  if (strcmp(model, "mock-sentiment") == 0)
    classify(&sentiment, text, size, out);
  else if (strcmp(model, "mock-topic") == 0)
    classify(&topic, text, size, out);
  else if (strcmp(model, "mock-summary") == 0)
    summarize(text, size, out);
  else
    return false;
  return true;
}
