// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Copyright The Plumb Authors.

// Every helper that fails is counted by the place that called it and by its
// number, so that evidence lost inside the kernel is never lost in silence.

#pragma once

#include "kernel.bpf.h"

// The places. Their numbers appear in metrics; new ones are added at the end.
enum error_site {
	SITE_SHINFO = 1,
	SITE_HEADER = 2,
	SITE_TRANSPORT = 3,
	SITE_TUNNEL = 4,
	SITE_INNER = 5,
	SITE_ROUTE = 6,
	SITE_PEER = 7,
	SITE_DROPS = 8,
	SITE_FLOWS = 9,
	SITE_WAKES = 10,
	SITE_SELFTEST = 11,
	SITE_MAC = 12,
	SITE_SOCKET = 13,
	SITE_CONNECTIONS = 14,
};

// The helpers, by their UAPI number (enum bpf_func_id).
enum error_helper {
	HELPER_MAP_UPDATE = 2,
	HELPER_PROBE_READ_KERNEL = 113,
	HELPER_RINGBUF_OUTPUT = 130,
};

struct error_key {
	__u16 site;
	__u16 helper;
};

// Key: where and which helper. Value: how often it failed.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct error_key);
	__type(value, __u64);
} helper_errors SEC(".maps");

// Global functions, like this one, are verified once and on their own (since 5.6);
// inlined, each of the many calls would double the paths that the verifier walks.
__attribute__((noinline)) int count_error(__u16 site, __u16 helper)
{
	struct error_key key = {};
	__u64 one = 1, *n;

	key.site = site;
	key.helper = helper;
	n = bpf_map_lookup_elem(&helper_errors, &key);
	if (n) {
		__sync_fetch_and_add(n, 1);
		return 0;
	}
	// A race with another CPU loses one count of an error that is counted anyway.
	bpf_map_update_elem(&helper_errors, &key, &one, BPF_NOEXIST);
	return 0;
}

// Reads kernel memory; a failure is counted. Returns 0 or a negative errno.
#define read_kernel(dst, size, src, site)                                     \
	({                                                                        \
		long __err = bpf_probe_read_kernel((dst), (size), (src));             \
		if (__err)                                                            \
			count_error((site), HELPER_PROBE_READ_KERNEL);                    \
		__err;                                                                \
	})
