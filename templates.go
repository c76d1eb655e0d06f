package main

import (
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strings"
)

//go:embed dashboard
var dashboardFiles embed.FS

// DashboardFiles are the files of the dashboard: templates, style, script.
func DashboardFiles() (fs.FS, error) { return fs.Sub(dashboardFiles, "dashboard") }

// ParsePages makes a page of each template file that has a content, by the
// file's name; the others are parts that every page may use.
func ParsePages(functions template.FuncMap) (map[string]*template.Template, error) {
	files, err := fs.Glob(dashboardFiles, "dashboard/*.html")
	if err != nil {
		return nil, err
	}
	parts, pages := template.New("layout").Funcs(functions), map[string]string{}
	for _, file := range files {
		text, err := fs.ReadFile(dashboardFiles, file)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(text), `{{define "content"}}`) {
			pages[strings.TrimSuffix(path.Base(file), ".html")] = string(text)
		} else if _, err := parts.Parse(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	made := map[string]*template.Template{}
	for name, text := range pages {
		page, err := parts.Clone()
		if err == nil {
			page, err = page.Parse(text)
		}
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		made[name] = page
	}
	return made, nil
}
