/* Drawings of sagas. See drawing.h. Pure. */
#include "broker/saga/drawing.h"

#include <string.h>

enum {
  WIDTH = 80,
  LAYER_WIDTH = 4,  /* the number and the space behind it */
  INDENTED_MAX = 8, /* layers further in than that stand as far in as this one: their numbers tell them apart */
  CONTINUED = 4,    /* how much further in a line goes on */
};

struct drawing {
  const struct txb_saga_definition *d;
  const struct txb_saga_drawn_state *states; /* may be NULL */
  int layer[TXB_SAGA_STEPS_MAX];             /* from 1 */
  int layers;
  uint64_t after[TXB_SAGA_STEPS_MAX]; /* only those that no other one implies */
};

static uint64_t bit(int n) {
  return UINT64_C(1) << n;
}

/* ---- the graph --------------------------------------------------------------------------------------------- */

static uint64_t nearest_before(const struct txb_saga_rules *rules, int rule) {
  uint64_t near = rules->steps[rule].after;
  for (int i = 0; i < rules->count; i++)
    if ((rules->steps[rule].after & bit(i)) != 0)
      near &= ~rules->before[i];
  return near;
}

/* A rule has at most as many before it as there are rules, and all those have fewer: so layers are found in that order. */
static void find_layers(struct drawing *g) {
  const struct txb_saga_rules *rules = &g->d->rules;
  for (int depth = 0; depth < rules->count; depth++)
    for (int i = 0; i < rules->count; i++) {
      int layer = 1;
      for (int j = 0; j < rules->count; j++)
        if ((rules->before[i] & bit(j)) != 0 && g->layer[j] >= layer)
          layer = g->layer[j] + 1;
      g->layer[i] = layer;
      g->layers = layer > g->layers ? layer : g->layers;
    }
}

static struct drawing drawing_of(const struct txb_saga_definition *d, const struct txb_saga_drawn_state *states) {
  struct drawing g = {.d = d, .states = states};
  for (int i = 0; i < d->rules.count; i++)
    g.after[i] = nearest_before(&d->rules, i);
  find_layers(&g);
  return g;
}

static const struct txb_saga_step_definition *step_of(const struct drawing *g, int rule) {
  return &g->d->steps[g->d->origin[rule].step];
}

static bool is_confirm(const struct drawing *g, int rule) {
  return g->d->origin[rule].confirm;
}

static const char *state_of(const struct drawing *g, int rule) {
  return g->states == NULL ? NULL : g->states[rule].state;
}

/* ---- words ------------------------------------------------------------------------------------------------- */

static void add_name(const struct drawing *g, int rule, struct txb_buffer *out) {
  txb_buffer_addf(out, "%s%s", step_of(g, rule)->name, is_confirm(g, rule) ? " (confirm)" : "");
}

static void add_kind(const struct drawing *g, int rule, struct txb_buffer *out) {
  const struct txb_saga_step_definition *s = step_of(g, rule);
  txb_buffer_add_text(out, txb_saga_step_kind_name(is_confirm(g, rule) ? TXB_SAGA_STEP_RETRIABLE : s->kind));
  if (s->nested != NULL)
    txb_buffer_addf(out, ", saga %s", s->nested);
  if (s->nested_version != 0)
    txb_buffer_addf(out, " version %d", (int)s->nested_version);
}

static void add_condition(const struct drawing *g, int rule, const char *before, struct txb_buffer *out) {
  const char *when = step_of(g, rule)->when;
  if (when != NULL && !is_confirm(g, rule))
    txb_buffer_addf(out, "%sif %s", before, when);
}

static void add_state(const struct drawing *g, int rule, struct txb_buffer *out) {
  txb_buffer_add_text(out, state_of(g, rule));
  if (g->states[rule].text != NULL)
    txb_buffer_addf(out, ": %s", g->states[rule].text);
}

/* ---- text -------------------------------------------------------------------------------------------------- */

static void add_after(const struct drawing *g, int rule, struct txb_buffer *out) {
  const char *before = "; after ";
  for (int i = 0; i < g->d->rules.count; i++) {
    if ((g->after[rule] & bit(i)) == 0)
      continue;
    txb_buffer_add_text(out, before);
    add_name(g, i, out);
    before = ", ";
  }
}

/* Whatever would move the cursor, or is no character, is a space. */
static size_t take_character(struct txb_slice rest, char shown[4], size_t *shown_size) {
  size_t size = txb_utf8_character(rest);
  unsigned char first = *(const unsigned char *)rest.data;
  *shown_size = size == 0 ? 1 : size;
  memcpy(shown, rest.data, *shown_size);
  if (size == 0 || first < 0x20 || first == 0x7F)
    shown[0] = ' ';
  /* The second set of controls, U+0080 to U+009F. */
  bool c1 = size == 2 && first == 0xC2 && ((const unsigned char *)rest.data)[1] < 0xA0;
  if (c1) {
    shown[0] = ' ';
    *shown_size = 1;
  }
  return size == 0 ? 1 : size;
}

static void clean(struct txb_slice text, struct txb_buffer *out) {
  for (size_t at = 0; at < text.size;) {
    char shown[4];
    size_t size;
    at += take_character(txb_slice_of((const char *)text.data + at, text.size - at), shown, &size);
    txb_buffer_add(out, shown, size);
  }
}

/* How much of the text fits into so many characters: up to the last space, or cut where there is none. */
static size_t fitting(const char *text, size_t size, size_t characters) {
  size_t at = 0, space = 0;
  for (; at < size && characters > 0; characters--) {
    if (text[at] == ' ')
      space = at;
    size_t step = txb_utf8_character(txb_slice_of(text + at, size - at));
    at += step == 0 ? 1 : step;
  }
  if (at == size || text[at] == ' ')
    return at;
  return space > 0 ? space : at;
}

/* The words, in lines; the first one begins where the cursor is, at column `used`, the others at column `indent`. */
static void add_wrapped(struct txb_slice text, size_t used, size_t indent, struct txb_buffer *out) {
  const char *at = text.data, *end = at + text.size;
  while (at < end) {
    size_t size = fitting(at, (size_t)(end - at), WIDTH - used);
    txb_buffer_add(out, at, size);
    txb_buffer_add_text(out, "\n");
    at += size;
    while (at < end && *at == ' ')
      at++;
    used = indent;
    if (at < end)
      txb_buffer_addf(out, "%*s", (int)indent, "");
  }
}

static void add_line(struct txb_slice text, size_t used, size_t indent, struct txb_buffer *out) {
  struct txb_buffer cleaned;
  txb_buffer_init(&cleaned);
  clean(text, &cleaned);
  out->failed |= cleaned.failed;
  if (!cleaned.failed)
    add_wrapped(txb_slice_of(cleaned.data, cleaned.size), used, indent, out);
  txb_buffer_fini(&cleaned);
}

static void draw_entry(const struct drawing *g, int rule, bool first, struct txb_buffer *out) {
  int layer = g->layer[rule], deep = layer <= INDENTED_MAX ? layer : INDENTED_MAX;
  size_t column = LAYER_WIDTH + 2 * (size_t)(deep - 1);
  struct txb_buffer line;
  txb_buffer_init(&line);
  add_name(g, rule, &line);
  txb_buffer_add_text(&line, ": ");
  add_kind(g, rule, &line);
  if (state_of(g, rule) != NULL) {
    txb_buffer_add_text(&line, " [");
    add_state(g, rule, &line);
    txb_buffer_add_text(&line, "]");
  }
  add_after(g, rule, &line);
  add_condition(g, rule, "; ", &line);
  if (first)
    txb_buffer_addf(out, "%2d%*s", layer, (int)column - 2, "");
  else
    txb_buffer_addf(out, "%*s", (int)column, "");
  out->failed |= line.failed;
  if (!line.failed)
    add_line(txb_slice_of(line.data, line.size), column, column + CONTINUED, out);
  txb_buffer_fini(&line);
}

static void draw_text(const struct drawing *g, struct txb_buffer *out) {
  txb_buffer_addf(out, "saga %s, version %d\n", g->d->name, (int)g->d->version);
  if (g->d->description != NULL)
    add_line(txb_slice_text(g->d->description), 0, 0, out);
  txb_buffer_add_text(out, "\n");
  for (int layer = 1; layer <= g->layers; layer++) {
    bool first = true;
    for (int i = 0; i < g->d->rules.count; i++)
      if (g->layer[i] == layer) {
        draw_entry(g, i, first, out);
        first = false;
      }
  }
}

/* ---- dot and mermaid --------------------------------------------------------------------------------------- */

/* How a language writes a label: `put` escapes a character that is not plain, or gives NULL. */
struct language {
  const char *line_end;
  const char *(*escape)(char c);
};

static const char *escape_dot(char c) {
  return c == '"' ? "\\\"" : c == '\\' ? "\\\\" : NULL;
}

/* Mermaid reads entities, HTML and Markdown within quotes. */
static const char *escape_mermaid(char c) {
  static const struct {
    char c;
    const char *as;
  } escapes[] = {{'"', "#quot;"}, {'#', "#35;"}, {'&', "#amp;"}, {'<', "#lt;"},
                 {'>', "#gt;"},   {'`', "#96;"}, {'*', "#42;"},  {'\\', "#92;"}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(escapes); i++)
    if (escapes[i].c == c)
      return escapes[i].as;
  return NULL;
}

static const struct language dot = {"\\n", escape_dot}, mermaid = {"<br/>", escape_mermaid};

static void add_escaped(const struct language *language, struct txb_buffer *text, struct txb_buffer *out) {
  struct txb_buffer cleaned;
  txb_buffer_init(&cleaned);
  clean(txb_slice_of(text->data, text->size), &cleaned);
  for (size_t i = 0; i < cleaned.size; i++) {
    const char *as = language->escape(cleaned.data[i]);
    if (as != NULL)
      txb_buffer_add_text(out, as);
    else
      txb_buffer_add(out, &cleaned.data[i], 1);
  }
  out->failed |= cleaned.failed || text->failed;
  txb_buffer_fini(&cleaned);
  txb_buffer_clear(text);
}

static void add_label(const struct drawing *g, int rule, const struct language *language, struct txb_buffer *out) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  add_name(g, rule, &text);
  add_escaped(language, &text, out);
  txb_buffer_add_text(out, language->line_end);
  add_kind(g, rule, &text);
  add_escaped(language, &text, out);
  add_condition(g, rule, "", &text);
  if (text.size > 0)
    txb_buffer_add_text(out, language->line_end);
  add_escaped(language, &text, out);
  if (state_of(g, rule) != NULL) {
    txb_buffer_add_text(out, language->line_end);
    add_state(g, rule, &text);
    add_escaped(language, &text, out);
  }
  txb_buffer_fini(&text);
}

static void add_arrows(const struct drawing *g, const char *arrow, const char *end, struct txb_buffer *out) {
  for (int to = 0; to < g->d->rules.count; to++)
    for (int from = 0; from < g->d->rules.count; from++)
      if ((g->after[to] & bit(from)) != 0)
        txb_buffer_addf(out, "  s%d %s s%d%s\n", from, arrow, to, end);
}

/* Both languages know these colours. */
static const char *colour_of(const char *state) {
  static const struct {
    const char *begin, *colour;
  } colours[] = {{"idle", "white"},         {"skipped", "whitesmoke"}, {"running", "lightblue"},
                 {"settling", "lightblue"}, {"done", "palegreen"},     {"refused", "lightsalmon"},
                 {"never", "whitesmoke"},   {"compensating", "khaki"}, {"compensated", "wheat"},
                 {"stuck", "tomato"}};
  for (size_t i = 0; state != NULL && i < TXB_ARRAY_SIZE(colours); i++)
    if (strncmp(state, colours[i].begin, strlen(colours[i].begin)) == 0)
      return colours[i].colour;
  return "white";
}

static bool is_pivot(const struct drawing *g, int rule) {
  return g->d->rules.pivot == rule;
}

static void draw_dot(const struct drawing *g, struct txb_buffer *out) {
  txb_buffer_addf(out, "digraph \"%s\" {\n  node [shape=box, style=filled, fillcolor=white];\n", g->d->name);
  for (int i = 0; i < g->d->rules.count; i++) {
    txb_buffer_addf(out, "  s%d [label=\"", i);
    add_label(g, i, &dot, out);
    txb_buffer_addf(out, "\", fillcolor=%s%s];\n", colour_of(state_of(g, i)), is_pivot(g, i) ? ", peripheries=2" : "");
  }
  add_arrows(g, "->", ";", out);
  txb_buffer_add_text(out, "}\n");
}

static void draw_mermaid(const struct drawing *g, struct txb_buffer *out) {
  txb_buffer_add_text(out, "flowchart TD\n");
  for (int i = 0; i < g->d->rules.count; i++) {
    txb_buffer_addf(out, "  s%d%s\"", i, is_pivot(g, i) ? "[[" : "[");
    add_label(g, i, &mermaid, out);
    txb_buffer_addf(out, "\"%s\n", is_pivot(g, i) ? "]]" : "]");
  }
  add_arrows(g, "-->", "", out);
  for (int i = 0; i < g->d->rules.count; i++)
    if (state_of(g, i) != NULL)
      txb_buffer_addf(out, "  style s%d fill:%s\n", i, colour_of(state_of(g, i)));
}

/* ---- all --------------------------------------------------------------------------------------------------- */

bool txb_saga_drawing_of(const char *name, enum txb_saga_drawing *out) {
  static const char *const names[] = {"text", "dot", "mermaid"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++)
    if (strcmp(names[i], name) == 0) {
      *out = (enum txb_saga_drawing)i;
      return true;
    }
  return false;
}

enum txb_rc txb_saga_draw(const struct txb_saga_definition *definition, enum txb_saga_drawing how,
                          const struct txb_saga_drawn_state *states, struct txb_buffer *out, struct txb_error *err) {
  struct drawing g = drawing_of(definition, states);
  switch (how) {
  case TXB_SAGA_DRAWING_TEXT:
    draw_text(&g, out);
    break;
  case TXB_SAGA_DRAWING_DOT:
    draw_dot(&g, out);
    break;
  case TXB_SAGA_DRAWING_MERMAID:
    draw_mermaid(&g, out);
    break;
  }
  return txb_buffer_check(out, err);
}
