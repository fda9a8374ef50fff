// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"net/http"
	"strings"
)

const gcpFlavor = "Metadata-Flavor"

// gcpProject is the numeric project of every machine of the lab.
const gcpProject = "123456789012"

// gcp answers as Compute Engine's server does ("About VM metadata" and "View and
// query VM metadata"): 403 without Metadata-Flavor: Google, and for what came
// through a proxy; 404. Each answer has Metadata-Flavor: Google, that to / also for
// a request without it, by which clients find out where they are ("Detect whether
// an application is running on a VM"). A request for a directory without the slash
// behind is sent there.
func gcp(w http.ResponseWriter, r *http.Request, instance Instance) {
	at := clean(r.URL.Path)
	values := gcpTree(instance)
	value, leaf := values.value(at)
	names := values.list(at)
	switch {
	case r.Header.Get(forwardedFor) != "":
		gcpError(w, http.StatusForbidden, "The request has "+forwardedFor)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		gcpError(w, http.StatusMethodNotAllowed, "The request method is not allowed")
	case at != "/" && r.Header.Get(gcpFlavor) != "Google":
		gcpError(w, http.StatusForbidden, "Missing Metadata-Flavor:Google header")
	case leaf && r.URL.Query().Get("alt") == "json":
		raw, err := json.Marshal(value)
		if err != nil {
			gcpError(w, http.StatusInternalServerError, err.Error())
			return
		}
		gcpHeaders(w)
		write(w, http.StatusOK, "application/json", string(raw))
	case leaf:
		gcpHeaders(w)
		write(w, http.StatusOK, "application/text", value)
	case len(names) > 0 && !strings.HasSuffix(r.URL.Path, "/"):
		w.Header().Set("Location", at+"/")
		gcpError(w, http.StatusMovedPermanently, at+"/")
	case len(names) > 0:
		gcpHeaders(w)
		write(w, http.StatusOK, "application/text", strings.Join(names, "\n")+"\n")
	default:
		gcpError(w, http.StatusNotFound, "The requested URL was not found on this server")
	}
}

// gcpTree has what says where and what a machine is; there are no attributes and no
// service accounts.
func gcpTree(instance Instance) tree {
	const v1 = "/computeMetadata/v1/"
	if instance.ID == "" {
		return tree{v1 + "project/numeric-project-id": gcpProject}
	}
	return tree{
		v1 + "instance/hostname":          instance.Name + ".c.plumb-lab.internal",
		v1 + "instance/id":                instance.ID,
		v1 + "instance/machine-type":      "projects/" + gcpProject + "/machineTypes/" + instance.Type,
		v1 + "instance/name":              instance.Name,
		v1 + "instance/zone":              "projects/" + gcpProject + "/zones/" + instance.Zone,
		v1 + "project/numeric-project-id": gcpProject,
		v1 + "project/project-id":         "plumb-lab",
	}
}

func gcpError(w http.ResponseWriter, status int, why string) {
	gcpHeaders(w)
	write(w, status, "text/html; charset=UTF-8", "<!DOCTYPE html>\n<html lang=en><title>"+http.StatusText(status)+"</title>\n<p>"+why+".\n")
}

func gcpHeaders(w http.ResponseWriter) {
	w.Header().Set("Server", "Metadata Server for VM")
	w.Header().Set(gcpFlavor, "Google")
}
