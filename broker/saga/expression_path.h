/* Paths, the part that templates, conditions and their checks share: not for others. */
#ifndef TXB_BROKER_SAGA_EXPRESSION_PATH_H
#define TXB_BROKER_SAGA_EXPRESSION_PATH_H

#include "broker/saga/expression.h"

#define TXB_SAGA_REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* Letters, digits, '_', '-' and whatever is not ASCII. */
bool txb_saga_is_word(char c);
/* Reads a path with its "?" at the beginning of the text. NULL: *out and *end_out are set; else what is wrong with it,
 * static. */
const char *txb_saga_path_read(const char *text, struct txb_saga_reference *out, const char **end_out);
/* The value that a path which could be read leads to, borrowed from the context; NULL: absent. */
json_t *txb_saga_path_follow(const struct txb_saga_reference *reference, const json_t *context);
/* The error of an absent value. */
enum txb_rc txb_saga_path_absent(const struct txb_saga_reference *reference, struct txb_error *err);
/* For "%.*s" in messages: a path is cut there after 100 bytes. */
int txb_saga_path_shown(const struct txb_saga_reference *reference);

#endif
