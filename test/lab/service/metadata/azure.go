// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// azureVersions are the newest that Azure lists ("Azure Instance Metadata Service",
// supported API versions), the newest last.
func azureVersions() []string {
	return []string{"2019-11-01", "2020-06-01", "2020-09-01", "2020-12-01", "2021-01-01", "2021-02-01", "2021-12-13"}
}

// azure answers as Azure's server does ("Azure Instance Metadata Service", usage and
// errors): 400 without Metadata: true, without a version that it knows, and for what
// came through a proxy; 404; 405 for anything but GET. It has no IPv6 address, so a
// lab has no listener there.
func azure(w http.ResponseWriter, r *http.Request, instance Instance) {
	at, query := clean(r.URL.Path), r.URL.Query()
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET")
		azureError(w, http.StatusMethodNotAllowed, "Method not allowed. Use GET")
	case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
		azureError(w, http.StatusBadRequest, "Bad request. Required metadata header not specified")
	case r.Header.Get(forwardedFor) != "":
		azureError(w, http.StatusBadRequest, "Bad request. The request must not have passed a proxy: it has "+forwardedFor)
	case at == "/metadata/versions":
		azureJSON(w, http.StatusOK, map[string]any{"apiVersions": azureVersions()})
	case query.Get("api-version") == "":
		azureBadVersion(w, "Bad request. api-version was not specified in the request. For more information refer to aka.ms/azureimds")
	case !slices.Contains(azureVersions(), query.Get("api-version")):
		azureBadVersion(w, "Bad request. api-version is invalid or not supported. For more information refer to aka.ms/azureimds")
	default:
		azureInstance(w, at, query.Get("format"), instance)
	}
}

// azureInstance answers for a node of the document, as JSON or, with format=text,
// as the value of a leaf or the names below a directory. A leaf has no JSON ("Azure
// Instance Metadata Service", response format).
func azureInstance(w http.ResponseWriter, at, format string, instance Instance) {
	values := azureTree(instance)
	value, leaf := values.value(at)
	names := values.list(at)
	switch {
	case !leaf && len(names) == 0:
		azureError(w, http.StatusNotFound, "Not found")
	case format != "" && format != "json" && format != "text":
		azureError(w, http.StatusBadRequest, "Bad request. The format is json or text")
	case leaf && format == "text":
		azureHeaders(w)
		write(w, http.StatusOK, "text/plain; charset=utf-8", value)
	case leaf:
		azureError(w, http.StatusBadRequest, "Bad request. Requested API is not valid JSON. Ask with format=text")
	case format == "text":
		azureHeaders(w)
		write(w, http.StatusOK, "text/plain; charset=utf-8", strings.Join(names, "\n"))
	default:
		azureJSON(w, http.StatusOK, document(values, at))
	}
}

// azureTree has what says where and what a machine is; the keys and the data of the
// user, which the real document holds too, are left out.
func azureTree(instance Instance) tree {
	if instance.ID == "" {
		return nil
	}
	const compute = "/metadata/instance/compute/"
	return tree{
		compute + "azEnvironment": "AzurePublicCloud",
		compute + "location":      instance.Region,
		compute + "name":          instance.Name,
		compute + "osType":        "Linux",
		compute + "provider":      "Microsoft.Compute",
		compute + "vmId":          instance.ID,
		compute + "vmSize":        instance.Type,
		compute + "zone":          instance.Zone,
	}
}

// document nests the part of a tree that is below a path.
func document(values tree, at string) map[string]any {
	out := map[string]any{}
	for _, name := range values.list(at) {
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			out[dir] = document(values, at+"/"+dir)
		} else {
			out[name], _ = values.value(at + "/" + name)
		}
	}
	return out
}

func azureBadVersion(w http.ResponseWriter, why string) {
	newest := slices.Clone(azureVersions()[len(azureVersions())-3:])
	slices.Reverse(newest)
	azureJSON(w, http.StatusBadRequest, map[string]any{"error": why, "newest-versions": newest})
}

func azureError(w http.ResponseWriter, status int, why string) {
	azureJSON(w, status, map[string]any{"error": why})
}

func azureJSON(w http.ResponseWriter, status int, body map[string]any) {
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	azureHeaders(w)
	write(w, status, "application/json; charset=utf-8", string(raw))
}

func azureHeaders(w http.ResponseWriter) { w.Header().Set("Server", "IMDS/150.870.65.1854") }
