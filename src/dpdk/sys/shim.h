/* What can't be bound directly: thread-local variables and a stdio stream of our own. */
#ifndef IBID_DPDK_SHIM_H
#define IBID_DPDK_SHIM_H

#include <stddef.h>

/* rte_errno is a per-thread variable; bindgen would bind it as an ordinary one. */
int ibid_rte_errno(void);

/* Sends DPDK's log to `sink` instead of the console and syslog. Returns 0, or -1 when no stream could be made. */
int ibid_log_to(void (*sink)(const char *text, size_t len));

#endif
