/* Drawings of sagas, word for word. */
#include "broker/saga/drawing.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"

static struct txb_saga_definition *d;
static struct txb_buffer out;
static struct txb_error err;

static void setup(void) {
  txb_buffer_init(&out);
}

static void teardown(void) {
  txb_buffer_fini(&out);
  txb_saga_definition_free(d);
}

TestSuite(saga_drawing, .init = setup, .fini = teardown);

#define COMMAND "\"topic\": \"t\", \"type\": \"x\", "
#define UNDO    "\"compensation\": {\"type\": \"u\"}"

static const char trip[] = "{\"name\": \"trip\", \"version\": 3, \"description\": \"A journey.\", \"steps\": ["
                           "{\"name\": \"flight\", " COMMAND "\"kind\": \"compensatable\", " UNDO "},"
                           "{\"name\": \"hotel\", " COMMAND "\"kind\": \"reserve\", \"after\": [],"
                           " \"confirm\": {\"type\": \"c\"}, \"cancel\": {\"type\": \"d\"}},"
                           "{\"name\": \"car\", " COMMAND "\"kind\": \"compensatable\", " UNDO ","
                           " \"after\": [\"flight\"], \"when\": \"input.car == '\\\"<b>'\"},"
                           "{\"name\": \"payment\", " COMMAND "\"kind\": \"pivot\","
                           " \"after\": [\"flight\", \"hotel\", \"car\"]},"
                           "{\"name\": \"paper\", \"kind\": \"retriable\","
                           " \"saga\": {\"name\": \"print\", \"version\": 2}}]}";

static void draws(const char *text, enum txb_saga_drawing how, const struct txb_saga_drawn_state *states,
                  const char *wanted) {
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(text), &d, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_saga_draw(d, how, states, &out, &err) == TXB_OK, "%s", err.message);
  cr_assert_str_eq(txb_buffer_text(&out), wanted, "%s", txb_buffer_text(&out));
}

static const struct txb_saga_drawn_state states[6] = {
    {"done", "seat \"12A\"\nwindow"}, {"stuck_action", "a\\b"}, {"skipped", NULL}, {NULL, "unsaid"}, {"idle", NULL}};

Test(saga_drawing, text_has_layers_and_leaves_out_what_others_say) {
  draws(trip, TXB_SAGA_DRAWING_TEXT, NULL,
        "saga trip, version 3\n"
        "A journey.\n"
        "\n"
        " 1  flight: compensatable\n"
        "    hotel: reserve\n"
        " 2    car: compensatable; after flight; if input.car == '\"<b>'\n"
        " 3      payment: pivot; after hotel, car\n"
        " 4        paper: retriable, saga print version 2; after payment\n"
        "          hotel (confirm): retriable; after payment\n");
}

Test(saga_drawing, text_tells_states_on_one_line) {
  draws(trip, TXB_SAGA_DRAWING_TEXT, states,
        "saga trip, version 3\n"
        "A journey.\n"
        "\n"
        " 1  flight: compensatable [done: seat \"12A\" window]\n"
        "    hotel: reserve [stuck_action: a\\b]\n"
        " 2    car: compensatable [skipped]; after flight; if input.car == '\"<b>'\n"
        " 3      payment: pivot; after hotel, car\n"
        " 4        paper: retriable, saga print version 2 [idle]; after payment\n"
        "          hotel (confirm): retriable; after payment\n");
}

Test(saga_drawing, dot_escapes_quotes_and_backslashes) {
  draws(trip, TXB_SAGA_DRAWING_DOT, states,
        "digraph \"trip\" {\n"
        "  node [shape=box, style=filled, fillcolor=white];\n"
        "  s0 [label=\"flight\\ncompensatable\\ndone: seat \\\"12A\\\" window\", fillcolor=palegreen];\n"
        "  s1 [label=\"hotel\\nreserve\\nstuck_action: a\\\\b\", fillcolor=tomato];\n"
        "  s2 [label=\"car\\ncompensatable\\nif input.car == '\\\"<b>'\\nskipped\", fillcolor=whitesmoke];\n"
        "  s3 [label=\"payment\\npivot\", fillcolor=white, peripheries=2];\n"
        "  s4 [label=\"paper\\nretriable, saga print version 2\\nidle\", fillcolor=white];\n"
        "  s5 [label=\"hotel (confirm)\\nretriable\", fillcolor=white];\n"
        "  s0 -> s2;\n"
        "  s1 -> s3;\n"
        "  s2 -> s3;\n"
        "  s3 -> s4;\n"
        "  s3 -> s5;\n"
        "}\n");
}

Test(saga_drawing, mermaid_escapes_what_it_would_read) {
  draws(trip, TXB_SAGA_DRAWING_MERMAID, states,
        "flowchart TD\n"
        "  s0[\"flight<br/>compensatable<br/>done: seat #quot;12A#quot; window\"]\n"
        "  s1[\"hotel<br/>reserve<br/>stuck_action: a#92;b\"]\n"
        "  s2[\"car<br/>compensatable<br/>if input.car == '#quot;#lt;b#gt;'<br/>skipped\"]\n"
        "  s3[[\"payment<br/>pivot\"]]\n"
        "  s4[\"paper<br/>retriable, saga print version 2<br/>idle\"]\n"
        "  s5[\"hotel (confirm)<br/>retriable\"]\n"
        "  s0 --> s2\n"
        "  s1 --> s3\n"
        "  s2 --> s3\n"
        "  s3 --> s4\n"
        "  s3 --> s5\n"
        "  style s0 fill:palegreen\n"
        "  style s1 fill:tomato\n"
        "  style s2 fill:whitesmoke\n"
        "  style s4 fill:white\n");
}

Test(saga_drawing, a_name_that_a_language_knows_is_only_a_name) {
  draws("{\"name\": \"graph\", \"version\": 1, \"steps\": [{\"name\": \"end\", " COMMAND "\"kind\": \"pivot\"}]}",
        TXB_SAGA_DRAWING_MERMAID, NULL, "flowchart TD\n  s0[[\"end<br/>pivot\"]]\n");
}

Test(saga_drawing, markup_and_controls_in_texts_are_harmless) {
  const struct txb_saga_drawn_state evil = {"done", "`*x*` #35; & \x1b[2J\x7f\xc2\x9b\xff\tz"};
  draws("{\"name\": \"a\", \"version\": 1, \"steps\": [{\"name\": \"x\", " COMMAND "\"kind\": \"pivot\"}]}",
        TXB_SAGA_DRAWING_MERMAID, &evil,
        "flowchart TD\n"
        "  s0[[\"x<br/>pivot<br/>done: #96;#42;x#42;#96; #35;35; #amp;  [2J    z\"]]\n"
        "  style s0 fill:palegreen\n");
}

/* A chain of n steps, the last of them with long texts. */
static const char *chain(int count) {
  static char text[64 * 300];
  size_t used = (size_t)snprintf(text, sizeof text, "{\"name\": \"a\", \"version\": 1, \"steps\": [");
  for (int i = 0; i < count; i++)
    used += (size_t)snprintf(
        text + used, sizeof text - used,
        "%s{\"name\": \"a-step-whose-name-is-as-long-as-a-name-can-be-%02d-------------\", " COMMAND
        "\"kind\": \"compensatable\", " UNDO ", \"when\": \"input.%s and input.%s\"}",
        i == 0 ? "" : ",", i, "a-path-that-is-rather-long", "\xc3\xa4\xc3\xa4\xc3\xa4.\xc3\xa4\xc3\xa4\xc3\xa4");
  (void)snprintf(text + used, sizeof text - used, "]}");
  return text;
}

static size_t characters(const char *text, size_t size) {
  size_t n = 0;
  for (size_t i = 0; i < size; i++)
    n += ((unsigned char)text[i] & 0xC0) != 0x80;
  return n;
}

Test(saga_drawing, no_line_of_text_is_longer_than_80_characters_and_none_is_cut_within_one) {
  struct txb_saga_drawn_state long_ones[TXB_SAGA_STEPS_MAX];
  char word[300];
  memset(word, 'w', sizeof word - 1);
  word[sizeof word - 1] = '\0';
  for (size_t i = 0; i < TXB_SAGA_STEPS_MAX; i++)
    long_ones[i] = (struct txb_saga_drawn_state){"stuck_compensation", word};
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(chain(64)), &d, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_saga_draw(d, TXB_SAGA_DRAWING_TEXT, long_ones, &out, &err) == TXB_OK);
  const char *text = txb_buffer_text(&out);
  size_t lines = 0, ws = 0;
  for (const char *at = text; *at != '\0'; lines++) {
    size_t size = strcspn(at, "\n");
    cr_assert_leq(characters(at, size), 80, "%.*s", (int)size, at);
    cr_assert(txb_slice_is_text(txb_slice_of(at, size)));
    cr_assert(size == 0 || at[size - 1] != ' ');
    at += size + 1;
  }
  for (const char *at = text; *at != '\0'; at++)
    ws += *at == 'w';
  cr_assert_gt(lines, 64 * 4);
  cr_assert_geq(ws, 64 * 299);
  cr_assert_not_null(strstr(text, "\n64  "));
}

Test(saga_drawing, characters_are_counted_not_bytes) {
  char description[2 * 200 + 1] = "", text[1000], wanted[1000];
  for (int i = 0; i < 200; i++)
    memcpy(description + 2 * i, "\xc3\xa4", 2);
  (void)snprintf(text, sizeof text,
                 "{\"name\": \"a\", \"version\": 1, \"description\": \"%s\","
                 " \"steps\": [{\"name\": \"x\", " COMMAND "\"kind\": \"pivot\"}]}",
                 description);
  (void)snprintf(wanted, sizeof wanted, "saga a, version 1\n%.160s\n%.160s\n%.80s\n\n 1  x: pivot\n", description,
                 description, description);
  draws(text, TXB_SAGA_DRAWING_TEXT, NULL, wanted);
}

Test(saga_drawing, a_confirm_has_no_condition_of_its_own) {
  draws("{\"name\": \"a\", \"version\": 1, \"steps\": [{\"name\": \"x\", " COMMAND
        "\"kind\": \"reserve\", \"when\": \"input.x\","
        " \"confirm\": {\"type\": \"c\"}, \"cancel\": {\"type\": \"d\"}}]}",
        TXB_SAGA_DRAWING_TEXT, NULL,
        "saga a, version 1\n\n 1  x: reserve; if input.x\n 2    x (confirm): retriable; after x\n");
}

Test(saga_drawing, formats_have_names) {
  enum txb_saga_drawing how = TXB_SAGA_DRAWING_TEXT;
  cr_assert(txb_saga_drawing_of("mermaid", &how) && how == TXB_SAGA_DRAWING_MERMAID);
  cr_assert(txb_saga_drawing_of("dot", &how) && how == TXB_SAGA_DRAWING_DOT);
  cr_assert(txb_saga_drawing_of("text", &how) && how == TXB_SAGA_DRAWING_TEXT);
  cr_assert_not(txb_saga_drawing_of("svg", &how));
}

Test(saga_drawing, every_lack_of_memory_is_an_error) {
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(trip), &d, &err) == TXB_OK);
  for (int how = 0; how <= TXB_SAGA_DRAWING_MERMAID; how++) {
    enum txb_rc rc = TXB_FATAL;
    int failures = 0;
    for (uint64_t nth = 1; rc != TXB_OK && nth < 500; nth++, failures++) {
      struct txb_buffer fresh;
      txb_buffer_init(&fresh);
      txb_alloc_fail_at(nth);
      rc = txb_saga_draw(d, (enum txb_saga_drawing)how, states, &fresh, &err);
      cr_assert(rc == TXB_OK || rc == TXB_FATAL);
      txb_buffer_fini(&fresh);
    }
    txb_alloc_fail_at(0);
    cr_assert(rc == TXB_OK && failures > 5);
  }
}
