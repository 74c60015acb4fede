package connect

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containerOf checks the container a request names, or picks the only one there is.
func containerOf(pod *core.Pod, name string) (string, error) {
	var apps, inits, guests []string
	for _, c := range pod.Spec.Containers {
		apps = append(apps, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		guests = append(guests, c.Name)
	}
	if name != "" {
		for _, list := range [][]string{apps, inits, guests} {
			for _, n := range list {
				if n == name {
					return name, nil
				}
			}
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	text := "a container name must be specified for pod " + pod.Name
	switch len(apps) {
	case 0:
		return "", apierrors.NewBadRequest(text)
	case 1:
		return apps[0], nil
	}
	text += fmt.Sprintf(", choose one of: [%s]", strings.Join(apps, " "))
	if len(inits) > 0 {
		text += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(inits, " "))
	}
	if len(guests) > 0 {
		text += fmt.Sprintf(" or one of the ephemeral containers: [%s]", strings.Join(guests, " "))
	}
	return "", apierrors.NewBadRequest(text)
}

func flag(q url.Values, name string) bool {
	list := q[name]
	return len(list) > 0 && list[0] != "0" && !strings.EqualFold(list[0], "false")
}

func number(q url.Values, name string) (*int64, error) {
	text := q.Get(name)
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return &n, nil
}

func logOptions(pod string, q url.Values) (*core.PodLogOptions, error) {
	o := &core.PodLogOptions{Container: q.Get("container"), Follow: flag(q, "follow"), Previous: flag(q, "previous"),
		Timestamps: flag(q, "timestamps"), InsecureSkipTLSVerifyBackend: flag(q, "insecureSkipTLSVerifyBackend")}
	if s := q.Get("stream"); s != "" {
		o.Stream = &s
	}
	var err error
	for name, into := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if *into, err = number(q, name); err != nil {
			return nil, err
		}
	}
	if text := q.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.SinceTime = new(metav1.NewTime(t))
	}
	if errs := checkLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, pod, errs)
	}
	return o, nil
}

// checkLogOptions is upstream's ValidatePodLogOptions.
func checkLogOptions(o *core.PodLogOptions) (errs field.ErrorList) {
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if o.Stream == nil {
		return errs
	}
	if all := core.LogStreamAll; *o.Stream != all && *o.Stream != core.LogStreamStdout && *o.Stream != core.LogStreamStderr {
		errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, []string{core.LogStreamAll, core.LogStreamStdout, core.LogStreamStderr}))
	} else if *o.Stream != all && o.TailLines != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	return errs
}

// logQuery words the options as the node reads them.
func logQuery(o *core.PodLogOptions) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if on {
			q.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil && *o.Stream != core.LogStreamAll {
		q.Set("stream", *o.Stream)
	}
	return q
}

// streamOptions reads the options of exec, attach and portforward; admission sees them.
func streamOptions(sub string, q url.Values) (runtime.Object, error) {
	switch sub {
	case "exec":
		return &core.PodExecOptions{Stdin: flag(q, "stdin"), Stdout: flag(q, "stdout"), Stderr: flag(q, "stderr"), TTY: flag(q, "tty"),
			Container: q.Get("container"), Command: q["command"]}, nil
	case "attach":
		return &core.PodAttachOptions{Stdin: flag(q, "stdin"), Stdout: flag(q, "stdout"), Stderr: flag(q, "stderr"), TTY: flag(q, "tty"),
			Container: q.Get("container")}, nil
	}
	o := &core.PodPortForwardOptions{}
	for _, list := range q["ports"] {
		for text := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseInt(text, 10, 32)
			if err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
			o.Ports = append(o.Ports, int32(n))
		}
	}
	return o, nil
}

// terminalQuery words the streams as the node reads them.
func terminalQuery(stdin, stdout, stderr, tty bool) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"input": stdin, "output": stdout, "error": stderr, "tty": tty} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}
