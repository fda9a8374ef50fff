// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// A kernel is a Debian cloud kernel, unpacked into a directory.
type kernel struct {
	release string
	image   string
	modules string
}

// fetchKernel downloads the newest Debian cloud kernel of a line ("6.1",
// "6.12") from the configured package sources, without installing it, and
// unpacks it below dir. A kernel that is there already is used as it is.
func fetchKernel(dir, line string) (kernel, error) {
	if k, err := unpacked(dir, line); err == nil {
		return k, nil
	}
	name, err := newestPackage(line)
	if err != nil {
		return kernel{}, err
	}
	work := filepath.Join(dir, line)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return kernel{}, fmt.Errorf("fetch kernel %s: %w", line, err)
	}
	download := exec.Command("apt-get", "download", name)
	download.Dir = work
	if out, err := download.CombinedOutput(); err != nil {
		return kernel{}, fmt.Errorf("download %s: %w: %s", name, err, out)
	}
	packages, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(packages) == 0 {
		return kernel{}, fmt.Errorf("download %s: apt-get left no package in %s", name, work)
	}
	if out, err := exec.Command("dpkg-deb", "-x", packages[0], work).CombinedOutput(); err != nil {
		return kernel{}, fmt.Errorf("unpack %s: %w: %s", name, err, out)
	}
	if err := os.Remove(packages[0]); err != nil {
		return kernel{}, fmt.Errorf("fetch kernel %s: %w", line, err)
	}
	return unpacked(dir, line)
}

func unpacked(dir, line string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, line, "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return kernel{}, fmt.Errorf("no kernel %s below %s", line, dir)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return kernel{release: release, image: images[0], modules: filepath.Join(dir, line, "lib", "modules", release)}, nil
}

// errNoKernel means that the machine's package sources do not have the kernel:
// Ubuntu's have other lines than Debian's.
var errNoKernel = errors.New("the package sources have no such kernel")

// newestPackage asks apt's lists, and has them fetched when they know nothing: on
// a machine that has every other package they may be empty.
func newestPackage(line string) (string, error) {
	name, err := listedPackage(line)
	if !errors.Is(err, errNoKernel) {
		return name, err
	}
	if out, err := exec.Command("apt-get", "-o", "DPkg::Lock::Timeout=180", "-qq", "update").CombinedOutput(); err != nil {
		return "", fmt.Errorf("look for a kernel %s: apt-get update: %w: %s", line, err, out)
	}
	return listedPackage(line)
}

func listedPackage(line string) (string, error) {
	out, err := exec.Command("apt-cache", "search", "--names-only", "^linux-image-"+regexp.QuoteMeta(line)+"[.].*-cloud-amd64$").Output()
	if err != nil {
		return "", fmt.Errorf("look for a kernel %s: apt-cache: %w", line, err)
	}
	var names []string
	for _, l := range strings.Split(string(out), "\n") {
		if name, _, ok := strings.Cut(l, " "); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", fmt.Errorf("look for linux-image-%s*-cloud-amd64: %w; Debian 12 and later have it", line, errNoKernel)
	}
	sort.Slice(names, func(i, j int) bool { return older(names[i], names[j]) })
	return names[len(names)-1], nil
}

// older compares the numbers in two package names one after the other.
func older(a, b string) bool {
	number := regexp.MustCompile(`[0-9]+`)
	x, y := number.FindAllString(a, -1), number.FindAllString(b, -1)
	for i := 0; i < len(x) && i < len(y); i++ {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return len(x) < len(y)
}

// module reads a kernel module by name, whatever it is compressed with.
func (k kernel) module(name string) ([]byte, error) {
	var found string
	err := filepath.WalkDir(k.modules, func(path string, d os.DirEntry, err error) error {
		base := filepath.Base(path)
		if err == nil && (base == name+".ko" || strings.HasPrefix(base, name+".ko.")) {
			found = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find module %s: %w", name, err)
	}
	switch filepath.Ext(found) {
	case "":
		return nil, fmt.Errorf("kernel %s has no module %s", k.release, name)
	case ".ko":
		return os.ReadFile(found)
	case ".xz":
		return exec.Command("xz", "-dc", found).Output()
	case ".zst":
		return exec.Command("zstd", "-dcq", found).Output()
	case ".gz":
		raw, err := os.ReadFile(found)
		if err != nil {
			return nil, err
		}
		zr, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("unpack module %s: %w", name, err)
		}
		var out bytes.Buffer
		if _, err := out.ReadFrom(zr); err != nil {
			return nil, fmt.Errorf("unpack module %s: %w", name, err)
		}
		return out.Bytes(), nil
	default:
		return nil, fmt.Errorf("unpack module %s: unknown compression of %s", name, found)
	}
}
