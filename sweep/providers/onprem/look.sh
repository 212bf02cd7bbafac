# Prints facts on one host for `check`, as name=value lines.
echo "cores=$(nproc)"
echo "ray_of_others=$(pgrep -x gcs_server | wc -l)"
command -v rsync > /dev/null && echo "rsync=yes"
nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2> /dev/null | sed 's/^/gpu=/'
echo "python=$({{PYTHON}} -c 'import sys; print(*sys.version_info[:2], sep=".")' 2> /dev/null)"
echo "ray=$({{PYTHON}} -c 'import importlib.metadata as m; print(m.version("ray"))' 2> /dev/null)"
{{STORAGE}}
