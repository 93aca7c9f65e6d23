/* Conditions, read and decided in one go. See expression.h. Pure.
 *
 *   either := both ("or" both)*        both := negation ("and" negation)*        negation := "not" negation | single
 *   single := "(" either ")" | operand [ operator operand ]
 */
#include <string.h>

#include "broker/saga/expression.h"
#include "broker/saga/expression_path.h"
#include "common/json_place.h"

#define REFUSE(err, ...) TXB_SAGA_REFUSE((err), __VA_ARGS__)

struct parser {
  const char *text, *at;
  const json_t *context; /* NULL: the condition is only checked */
  txb_saga_visit visit;  /* while checking; may be NULL */
  void *arg;
  int depth;
  struct txb_error *err;
};

/* One side of a comparison. */
struct operand {
  json_t *value; /* owned; NULL: absent, or nothing is decided */
  struct txb_saga_reference reference;
  bool is_path;
};

static enum txb_rc refuse_here(const struct parser *p, const char *problem) {
  if (*p->at == '\0')
    return REFUSE(p->err, "condition \"%.200s\": at its end: %s", p->text, problem);
  return REFUSE(p->err, "condition \"%.200s\": at \"%.40s\": %s", p->text, p->at, problem);
}

static void skip_space(struct parser *p) {
  while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
    p->at++;
}

/* Takes a word such as "and", alone: not the beginning of "android". */
static bool take_word(struct parser *p, const char *word) {
  size_t size = strlen(word);
  skip_space(p);
  if (strncmp(p->at, word, size) != 0 || txb_saga_is_word(p->at[size]))
    return false;
  p->at += size;
  return true;
}

static bool take_mark(struct parser *p, const char *mark) {
  skip_space(p);
  if (strncmp(p->at, mark, strlen(mark)) != 0)
    return false;
  p->at += strlen(mark);
  return true;
}

static enum txb_rc enter(struct parser *p) {
  return ++p->depth > TXB_SAGA_CONDITION_DEPTH_MAX
             ? refuse_here(p, "more than 32 parentheses and nots within each other")
             : TXB_OK;
}

/* ---- operands ---------------------------------------------------------------------------------------------- */

static enum txb_rc give(const struct parser *p, json_t *value, struct operand *out) {
  if (value == NULL)
    return TXB_FAIL(p->err, TXB_FATAL, "out of memory for a saga's condition");
  out->value = value;
  return TXB_OK;
}

/* 'text', in which two quotes are one. */
static enum txb_rc take_text(struct parser *p, struct operand *out) {
  char text[TXB_SAGA_CONDITION_SIZE_MAX];
  size_t size = 0;
  const char *at = p->at + 1;
  for (; *at != '\0' && (*at != '\'' || at[1] == '\''); at++) {
    at += *at == '\'';
    text[size++] = *at;
  }
  if (*at == '\0')
    return refuse_here(p, "the text has no closing quote");
  p->at = at + 1;
  return give(p, json_stringn(text, size), out);
}

static enum txb_rc take_number(struct parser *p, struct operand *out) {
  size_t size = strspn(p->at, "0123456789+-.eE");
  json_t *number = json_loadb(p->at, size, JSON_DECODE_ANY, NULL);
  if (number == NULL || txb_saga_is_word(p->at[size])) {
    json_decref(number);
    return refuse_here(p, "this is no number, or too large a one");
  }
  p->at += size;
  return give(p, number, out);
}

static enum txb_rc take_path(struct parser *p, bool decides, struct operand *out) {
  const char *end, *problem = txb_saga_path_read(p->at, &out->reference, &end);
  if (problem != NULL)
    return refuse_here(
        p, txb_saga_is_word(*p->at) ? problem : "a path, a number, a 'text', true, false, null, not or '(' is wanted");
  p->at = end;
  out->is_path = true;
  if (decides)
    out->value = json_incref(txb_saga_path_follow(&out->reference, p->context));
  return TXB_OK;
}

static enum txb_rc tell(const struct parser *p, struct operand *o, bool tested) {
  if (!o->is_path || p->visit == NULL)
    return TXB_OK;
  o->reference.tested = tested;
  return p->visit(p->arg, &o->reference, p->err);
}

static enum txb_rc take_operand(struct parser *p, bool decides, struct operand *out) {
  *out = (struct operand){.value = NULL};
  skip_space(p);
  if (*p->at == '\'')
    return take_text(p, out);
  if (*p->at == '-' || (*p->at >= '0' && *p->at <= '9'))
    return take_number(p, out);
  if (take_word(p, "true"))
    return give(p, json_true(), out);
  if (take_word(p, "false"))
    return give(p, json_false(), out);
  if (take_word(p, "null"))
    return give(p, json_null(), out);
  return take_path(p, decides, out);
}

/* ---- comparisons ------------------------------------------------------------------------------------------- */

enum comparison { NONE, EQUAL, UNEQUAL, LESS, LESS_EQUAL, MORE, MORE_EQUAL };

static enum comparison take_operator(struct parser *p) {
  static const struct {
    const char *mark;
    enum comparison how;
  } marks[] = {{"==", EQUAL}, {"!=", UNEQUAL}, {"<=", LESS_EQUAL}, {">=", MORE_EQUAL}, {"<", LESS}, {">", MORE}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(marks); i++)
    if (take_mark(p, marks[i].mark))
      return marks[i].how;
  return NONE;
}

/* Both kinds of numbers without loss: a long double has the digits of a 64-bit integer. */
static long double number(const json_t *value) {
  return json_is_integer(value) ? (long double)json_integer_value(value) : (long double)json_real_value(value);
}

static int order_of_numbers(const json_t *a, const json_t *b) {
  long double x = number(a), y = number(b);
  return (x > y) - (x < y);
}

static int order_of_texts(const json_t *a, const json_t *b) {
  size_t sizes[] = {json_string_length(a), json_string_length(b)};
  int order = memcmp(json_string_value(a), json_string_value(b), sizes[0] < sizes[1] ? sizes[0] : sizes[1]);
  return order != 0 ? order : (sizes[0] > sizes[1]) - (sizes[0] < sizes[1]);
}

static bool are_equal(const json_t *a, const json_t *b);

static bool are_equal_arrays(const json_t *a, const json_t *b) {
  bool equal = json_array_size(a) == json_array_size(b);
  for (size_t i = 0; equal && i < json_array_size(a); i++)
    equal = are_equal(json_array_get(a, i), json_array_get(b, i));
  return equal;
}

static bool are_equal(const json_t *a, const json_t *b) {
  if (json_is_number(a) && json_is_number(b))
    return order_of_numbers(a, b) == 0;
  if (json_is_array(a) && json_is_array(b))
    return are_equal_arrays(a, b);
  return json_equal(a, b) != 0;
}

static bool fits(enum comparison how, int order) {
  switch (how) {
  case EQUAL:
    return order == 0;
  case UNEQUAL:
    return order != 0;
  case LESS:
    return order < 0;
  case LESS_EQUAL:
    return order <= 0;
  case MORE:
    return order > 0;
  case MORE_EQUAL:
    return order >= 0;
  case NONE:
    break;
  }
  return false;
}

static enum txb_rc compare(const struct parser *p, const json_t *a, enum comparison how, const json_t *b, bool *out) {
  if (how == EQUAL || how == UNEQUAL)
    *out = fits(how, are_equal(a, b) ? 0 : 1);
  else if (json_is_null(a) || json_is_null(b))
    *out = false;
  else if (json_is_number(a) && json_is_number(b))
    *out = fits(how, order_of_numbers(a, b));
  else if (json_is_string(a) && json_is_string(b))
    *out = fits(how, order_of_texts(a, b));
  else
    return REFUSE(p->err, "condition \"%.200s\": %s and %s have no order; compare numbers or texts", p->text,
                  txb_json_kind_name(a), txb_json_kind_name(b));
  return TXB_OK;
}

/* An absent value takes part as null where its path says that it may be absent. */
static enum txb_rc settle(const struct parser *p, struct operand *o) {
  if (o->value != NULL)
    return TXB_OK;
  if (!o->reference.optional)
    return txb_saga_path_absent(&o->reference, p->err);
  o->value = json_null();
  return TXB_OK;
}

static enum txb_rc decide_alone(const struct parser *p, const struct operand *o, bool decides, bool *out) {
  if (!o->is_path && !json_is_boolean(o->value))
    return refuse_here(p, "one of == != < <= > >= is wanted behind a value");
  if (decides)
    *out = o->value != NULL && !json_is_null(o->value) && !json_is_false(o->value);
  return TXB_OK;
}

static enum txb_rc compare_with(struct parser *p, struct operand *left, enum comparison how, bool decides, bool *out) {
  struct operand right;
  enum txb_rc rc = take_operand(p, decides, &right);
  if (rc == TXB_OK)
    rc = tell(p, &right, false);
  if (rc == TXB_OK && decides)
    rc = settle(p, left);
  if (rc == TXB_OK && decides)
    rc = settle(p, &right);
  if (rc == TXB_OK && decides)
    rc = compare(p, left->value, how, right.value, out);
  json_decref(right.value);
  return rc;
}

static enum txb_rc either(struct parser *p, bool decides, bool *out);

static enum txb_rc single(struct parser *p, bool decides, bool *out) {
  if (take_mark(p, "(")) {
    TXB_TRY(enter(p));
    TXB_TRY(either(p, decides, out));
    p->depth--;
    return take_mark(p, ")") ? TXB_OK : refuse_here(p, "a ')' is wanted");
  }
  struct operand left;
  enum txb_rc rc = take_operand(p, decides, &left);
  if (rc == TXB_OK) {
    enum comparison how = take_operator(p);
    rc = tell(p, &left, how == NONE);
    if (rc == TXB_OK)
      rc = how == NONE ? decide_alone(p, &left, decides, out) : compare_with(p, &left, how, decides, out);
  }
  json_decref(left.value);
  return rc;
}

/* ---- not, and, or ------------------------------------------------------------------------------------------ */

static enum txb_rc negation(struct parser *p, bool decides, bool *out) {
  if (!take_word(p, "not"))
    return single(p, decides, out);
  TXB_TRY(enter(p));
  TXB_TRY(negation(p, decides, out));
  p->depth--;
  *out = !*out;
  return TXB_OK;
}

static enum txb_rc both(struct parser *p, bool decides, bool *out) {
  TXB_TRY(negation(p, decides, out));
  while (take_word(p, "and")) {
    bool right = false;
    TXB_TRY(negation(p, decides && *out, &right));
    *out = *out && right;
  }
  return TXB_OK;
}

static enum txb_rc either(struct parser *p, bool decides, bool *out) {
  TXB_TRY(both(p, decides, out));
  while (take_word(p, "or")) {
    bool right = false;
    TXB_TRY(both(p, decides && !*out, &right));
    *out = *out || right;
  }
  return TXB_OK;
}

static enum txb_rc whole(struct parser *p, bool *out) {
  if (strlen(p->text) > TXB_SAGA_CONDITION_SIZE_MAX)
    return REFUSE(p->err, "a condition has at most %d bytes", TXB_SAGA_CONDITION_SIZE_MAX);
  TXB_TRY(either(p, p->context != NULL, out));
  skip_space(p);
  return *p->at == '\0' ? TXB_OK : refuse_here(p, "and, or or the end is wanted");
}

enum txb_rc txb_saga_condition_check(const char *text, txb_saga_visit visit, void *arg, struct txb_error *err) {
  struct parser p = {.text = text, .at = text, .visit = visit, .arg = arg, .err = err};
  bool unused = false;
  return whole(&p, &unused);
}

enum txb_rc txb_saga_condition_holds(const char *text, const json_t *context, bool *out, struct txb_error *err) {
  TXB_ASSERT(context != NULL);
  struct parser p = {.text = text, .at = text, .context = context, .err = err};
  bool holds = false;
  TXB_TRY(whole(&p, &holds));
  *out = holds;
  return TXB_OK;
}
