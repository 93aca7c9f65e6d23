/* Where a worker's log goes. */
#ifndef TXBROKER_LOG_H
#define TXBROKER_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

enum txb_log_level {
  TXB_LOG_DEFAULT = 0, /* in options: TXB_LOG_INFO */
  TXB_LOG_DEBUG,       /* what the server's notices say */
  TXB_LOG_INFO,        /* started, connected, partitions assigned, stopped */
  TXB_LOG_WARN,        /* what it waits for or goes on after */
  TXB_LOG_ERROR,       /* what a person must see to */
  TXB_LOG_NONE,        /* in options: nothing */
};

/* Gets one line as logfmt ("msg=\"worker started\" group=ledger"), without time, level and newline, ended by a NUL, at most 4096 bytes; borrowed.
 * Bytes that are not printable UTF-8 are escaped in it. Called in the thread that runs the worker; it must not call the worker. */
typedef void (*txb_log_fn)(enum txb_log_level level, const char *line, void *context);

#ifdef __cplusplus
}
#endif
#endif
