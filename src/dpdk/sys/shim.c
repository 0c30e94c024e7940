/* See shim.h. */
#define _GNU_SOURCE
#include <stdio.h>
#include <rte_errno.h>
#include <rte_log.h>
#include "shim.h"

static void (*log_sink)(const char *text, size_t len);

int ibid_rte_errno(void)
{
	return rte_errno;
}

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	log_sink(text, len);
	return (ssize_t)len;
}

int ibid_log_to(void (*sink)(const char *text, size_t len))
{
	static FILE *stream;
	cookie_io_functions_t functions = { .write = log_write };

	log_sink = sink;
	if (stream == NULL) {
		stream = fopencookie(NULL, "w", functions);
		if (stream == NULL)
			return -1;
		/* One call of the sink for each line. */
		setvbuf(stream, NULL, _IOLBF, 0);
	}
	return rte_openlog_stream(stream);
}
