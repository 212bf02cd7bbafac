# Removes the files that a launch has copied to one host.  Logs and a Python environment that was made stay.
if [ -e {{FOLDER}}/code ] || [ -e {{FOLDER}}/auth_token ]; then echo "removed={{FOLDER}}"; fi
rm -rf {{FOLDER}}/running {{FOLDER}}/code {{FOLDER}}/auth_token {{FOLDER}}/end.sh {{FOLDER}}/supervised
rm -f /tmp/ray/cluster-{{NAME}}.state /tmp/ray/cluster-{{NAME}}.lock
if grep -qs '"{{NAME}}"' ~/ray_bootstrap_config.yaml; then rm -f ~/ray_bootstrap_config.yaml ~/ray_bootstrap_key.pem; fi
